"""The generator of a trial, from its checkpoint into a folder that needs no sweep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gbc import checkpoint, export
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.training import tasks
from records.trial import TrialRecord
from search.files import shared_classifiers, storage
from search.files.paths import CHECKPOINT, CLASSIFIERS, PICTURE, files_folder, trial_folder
from search.spec.config import SweepConfig


def write_trial(
    config: SweepConfig, trials: Sequence[TrialRecord], chosen: TrialRecord, out: Path, formats: Sequence[str]
) -> dict[str, Any]:
    """Write the folder `out` for one of the trials of a sweep; `formats` as `gbc.export.write` takes them.

    Raises:
        BadInput: its generator was not kept, or `out` cannot be written.
    """
    home = files_folder(config)
    path = trial_folder(home, chosen.number) / CHECKPOINT
    if chosen.finished and not path.exists():
        kept = ", ".join(str(trial.number) for trial in trials if (trial_folder(home, trial.number) / CHECKPOINT).exists())
        raise BadInput(
            f"the generator of trial {chosen.number} was not kept; there are those of {kept or 'no trial'} (--keep K)"
        )
    state = checkpoint.load(path)
    settings = TrialConfig.parse(state["settings"], f"trial {chosen.number}")
    root = config.places.storage
    inputs = tasks.obtain(settings, CLASSIFIERS, other_cache=shared_classifiers.storage_source(root) if root else None)
    metrics = {key: value for key, value in state["history"][-1].items() if key != "step"}
    picture = trial_folder(home, chosen.number) / PICTURE
    origin = f"Trial {chosen.number} of {len(trials)} in sweep `{config.name}`, after {chosen.last_step} steps."
    with ExitStack() as stack:
        shown = stack.enter_context(storage.local_copy(picture)) if picture.exists() else None
        export.write(
            out, export.generator_weights(state["trainer"]), settings, inputs, metrics,
            origin=origin, picture=shown, formats=formats, threads=max(1, int(config.resources.cpus_per_trial)),
        )  # fmt: skip
    return {"out": str(out), "sweep": config.name, "trial": chosen.number, "metrics": metrics, "params": chosen.params}
