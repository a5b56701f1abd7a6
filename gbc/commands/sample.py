"""`python -m gbc sample`: images from an exported generator."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gbc.command_line import positive, progress, seed
from gbc.commands import options
from gbc.commands.options import Commands

if TYPE_CHECKING:
    from torch import Tensor

_SHEET: Final = 10_000
_SHOWN_FROM: Final = 5_000  # images, which take a second


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("sample", help="draw images from an exported generator")
    options.add_model(parser)
    parser.add_argument(
        "--label", action="append", help="a class, by number or name; repeat for several (default: every class)"
    )
    parser.add_argument(
        "--count", type=positive, default=64, help="number of images, shared evenly by the classes (default: 64)"
    )
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
    named = arguments.label or map(str, range(len(generator.class_names)))
    classes = [generator.label_named(text) for text in named]
    synthetic = synthetic_sets.SyntheticSet(generator, classes, arguments.count, arguments.seed)
    synthetic.check_room(out, files=not kind)
    with progress("images", arguments.count, shown_from=_SHOWN_FROM) as on_written:
        if kind == ".npz":
            synthetic_sets.write_arrays(out, synthetic, on_written)
        elif kind == ".png":
            _write_sheet(out, synthetic.images(), len(classes), arguments.count)
        else:
            synthetic_sets.write_folder(out, synthetic, on_written)
    print(out)


def _write_sheet(out: Path, images: Iterator[Tensor], classes: int, count: int) -> None:
    import torch

    from gbc import pictures
    from gbc.checkpoint import write_atomic

    columns = pictures.columns_for(classes) if classes > 1 else round(count**0.5) or 1
    write_atomic(out, pictures.png(pictures.grid(torch.cat(list(images)), columns)))
