"""The sweeps that ship with the repository, `configs/DATASET-PRESET.yaml`, by data set and preset."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"


def presets() -> dict[str, list[str]]:
    """The presets of each data set, as the names of the files say."""
    by_dataset: dict[str, list[str]] = {}
    for file in sorted(CONFIGS.glob("*-*.yaml")):
        dataset, _, preset = file.stem.partition("-")  # names of data sets hold underscores, never a dash
        by_dataset.setdefault(dataset, []).append(preset)
    return by_dataset


def preset_help() -> str:
    """The help of `--preset`: the presets of every data set first, then those of some."""
    known = presets()
    common = sorted(set.intersection(*map(set, known.values()))) if known else []
    parts = [", ".join(f"{preset} (default)" if preset == "quick" else preset for preset in common)]
    for dataset, names in known.items():
        if further := [name for name in names if name not in common]:
            parts.append(f"for {dataset} also {', '.join(further)}")
    return f"configs/DATASET-PRESET.yaml: {'; '.join(parts)}"
