"""`python -m gbc sample`: images from an exported generator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gbc.command_line import positive, seed, whole
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from torch import Tensor

_SHEET: Final = 10_000
_QUIET: Final = 5_000  # fewer images take a second


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("sample", help="draw images from an exported generator")
    options.add_model(parser)
    parser.add_argument("--label", type=whole, action="append", help="a class; repeat for several (default: every class)")
    parser.add_argument("--count", type=positive, default=64, help="images in all, as many of each class (default: 64)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--out", required=True, metavar="FILE|DIR/", help=".png for a sheet, .npz for arrays, a folder for an image folder"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write a sheet, arrays or an image folder of samples."""
    from gbc.errors import BadInput

    out = Path(arguments.out)
    kind = "" if arguments.out.endswith("/") else out.suffix
    if kind not in (".png", ".npz", ""):
        raise BadInput(f"--out {out}: must end in .png or .npz, or in / for a folder of images")
    if kind == ".png" and arguments.count > _SHEET:
        raise BadInput(f"--count {arguments.count}: a sheet holds at most {_SHEET} images; give --out DIR/ or --out FILE.npz")

    from gbc import export
    from gbc.export import synthetic_sets

    if not kind:
        export.check_new(out)
    generator = export.load(arguments.model)
    classes = arguments.label or list(range(len(generator.class_names)))
    wanted = synthetic_sets.SyntheticSet(generator, classes, arguments.count, arguments.seed)
    wanted.check_room(out, files=not kind)
    with _meter(arguments.count) as told:
        if kind == ".npz":
            synthetic_sets.write_arrays(out, wanted, told)
        elif kind == ".png":
            _write_sheet(out, wanted.images(), len(classes), arguments.count)
        else:
            synthetic_sets.write_folder(out, wanted, told)
    print(out)


def _write_sheet(out: Path, images: Iterator[Tensor], classes: int, count: int) -> None:
    import torch

    from gbc import pictures
    from gbc.checkpoint import write_atomic

    columns = pictures.columns_of(classes) if classes > 1 else round(count**0.5) or 1
    write_atomic(out, pictures.png(pictures.tile(torch.cat(list(images)), columns)))


@contextmanager
def _meter(count: int) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how far a large set has come: a bar on a terminal, ten plain lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, done = Console(stderr=True), 0
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=count < _QUIET or not console.is_terminal) as bar:
        task = bar.add_task("images", total=count)

        def told(more: int) -> None:
            nonlocal done
            tenths, done = 10 * done // count, done + more
            bar.update(task, completed=done)
            if count >= _QUIET and not console.is_terminal and 10 * done // count > tenths:
                print(f"images {done}/{count}", file=sys.stderr)

        yield told
