"""`python -m gbc data`: the shipped data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    data = commands.add_parser("data", help="the shipped data sets").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    build = data.add_parser("build", help="recreate the shipped files from full torchvision sets, byte for byte")
    build.add_argument("--data-root", required=True, metavar="DIR", type=Path)
    build.add_argument("--out", required=True, metavar="DIR", type=Path)
    build.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the shipped files and print their sizes."""
    from gbc.data import datasets

    for name in datasets.SHIPPED:
        path = datasets.build(name, arguments.data_root, arguments.out)
        print(f"{path}  {path.stat().st_size} bytes")
