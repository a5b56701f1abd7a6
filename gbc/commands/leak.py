"""`python -m gbc leak`: how much better an exported generator reconstructs training images than other images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gbc.command_line import positive, seed
from gbc.commands import options
from gbc.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("leak", help="rank the training images that samples reconstruct, beside held-out images")
    options.add_model(parser)
    parser.add_argument("--count", type=positive, help="samples (default: four for each training image that is compared)")
    parser.add_argument("--seed", type=seed, default=0, help="of the samples (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the ten worst cases, .png")
    options.add_real_images(parser)
    options.add_cache(parser)
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print counts and AUCs, then the worst cases."""
    from gbc.errors import BadInput

    if arguments.out is not None and arguments.out.suffix != ".png":
        raise BadInput(f"--out {arguments.out}: must end in .png")

    from gbc import export
    from gbc.checkpoint import write_atomic
    from gbc.export import leak
    from gbc.metrics import features

    generator = export.load(arguments.model)
    data, config = options.real_images(generator, arguments)
    count = leak.sample_count(data, arguments.count)
    print("feature network: from the cache, or trained now (half a minute)", file=sys.stderr)
    oracle = features.obtain(config, data, arguments.cache)
    result, samples = leak.measure(
        generator, data, count=count, seed=arguments.seed, network=oracle.network,
        progress=lambda done, classes: print(f"compared {done} of {classes} classes", file=sys.stderr),
    )  # fmt: skip
    notes = leak.caveats(generator, data)
    if arguments.out is not None:
        write_atomic(arguments.out, leak.worst_cases(result, data, samples))
    if arguments.json:
        print(json.dumps({**result.to_json(), "notes": notes}, indent=2))
        return
    print(result.text())
    print(f"\n{'training image':>14}  {'class':16}{'SSIM':>6}{'z':>6}{'feature distance':>18}{'sample':>8}")
    for case in result.ranking[: leak.WORST]:
        scores = f"{case.ssim:6.3f}{case.z:6.2f}{case.feature_distance or 0.0:18.3f}"
        print(f"{case.image:14}  {case.label:16}{scores}{case.sample:8}")
    for note in notes:
        print(f"note: {note}")
    if arguments.out is not None:
        print(arguments.out)
