"""`python -m gbc sample`: images from an exported generator."""

from __future__ import annotations

import argparse
from pathlib import Path

from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("sample", help="draw images from an exported generator")
    options.add_model(parser)
    parser.add_argument("--label", type=int, action="append", help="a class; repeat for several (default: every class)")
    parser.add_argument("--count", type=int, default=64, help="images in all (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="FILE", type=Path, help=".png for a sheet, .npz for arrays")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write a sheet or arrays of samples."""
    import numpy as np

    from gbc import export, pictures
    from gbc.checkpoint import write_atomic
    from gbc.errors import BadInput

    if arguments.count < 1:
        raise BadInput(f"--count {arguments.count}: must be at least 1")
    if arguments.out.suffix not in (".png", ".npz"):
        raise BadInput(f"--out {arguments.out}: must end in .png or .npz")
    generator = export.load(arguments.model)
    classes = arguments.label or list(range(len(generator.class_names)))
    labels = [classes[index % len(classes)] for index in range(arguments.count)]
    images = generator.sample(labels, arguments.seed)
    if arguments.out.suffix == ".npz":
        import io

        content = io.BytesIO()
        np.savez_compressed(content, images=(images.numpy() * 255).round().astype(np.uint8), labels=np.array(labels))
        write_atomic(arguments.out, content.getvalue())
    else:
        columns = pictures.columns_of(len(classes)) if len(classes) > 1 else round(len(labels) ** 0.5) or 1
        write_atomic(arguments.out, pictures.png(pictures.tile(images, columns)))
    print(arguments.out)
