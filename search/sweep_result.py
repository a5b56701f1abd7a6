"""The result of a sweep for scripts and notebooks: its best trial, a table of all, exports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from search.driver.summary import Summary
    from search.spec.config import SweepConfig


class BestTrial(NamedTuple):
    """The best trial of a sweep."""

    number: int
    settings: dict[str, Any]
    """Its searched settings."""
    scores: dict[str, float]
    """The metrics of its last report."""


@dataclass(frozen=True, repr=False)
class SweepResult:
    """A sweep whose run has ended. What it gives is read from the records, relative to the folder that the sweep ran in."""

    summary: Summary
    config: SweepConfig

    def __repr__(self) -> str:
        from search.status import summary_lines

        return "\n".join(summary_lines(self.summary))

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return self.summary.name

    @property
    def best(self) -> BestTrial | None:
        """The best trial; None if none reached the full horizon."""
        if self.summary.best_trial is None:
            return None
        return BestTrial(self.summary.best_trial, self.summary.best_params, self.summary.best_metrics)

    @property
    def picture(self) -> Image | None:
        """Images of the best trial: generated in odd rows, in even rows the nearest training image; None without a best."""
        from PIL import Image

        from search.files import storage
        from search.files.paths import PICTURE, files_folder, trial_folder

        if self.best is None:
            return None
        with (
            storage.local_copy(trial_folder(files_folder(self.config), self.best.number) / PICTURE) as file,
            Image.open(file) as image,
        ):
            return image.copy()

    @property
    def report(self) -> Path | None:
        """The page with all figures; None if it was not asked for."""
        from records.paths import REPORT

        path = Path(self.summary.folder) / REPORT
        return path if path.exists() else None

    def trials(self) -> pd.DataFrame:
        """A row for each trial, by its number: `state`, `step`, `repeats`, `reason`, searched settings, last scores.

        Raises:
            BadInput: the study or MLflow's store cannot be read.
        """
        import pandas as pd

        from records.mlflow_store import number_of, open_client, runs_of, usable
        from search.files.paths import sweep_folder
        from search.spec.faults import readable
        from search.study.store import recorded_trials
        from search.tracking.client import address

        trials, _ = recorded_trials(self.config, sweep_folder(self.name))
        uri = address(self.config)
        with readable(), usable(uri):
            _, runs = runs_of(open_client(uri), self.config.dataset, self.name)
        scores = {number_of(run.data.tags): dict(sorted(run.data.metrics.items())) for run in runs}
        rows = [
            {
                "trial": trial.number,
                "state": trial.state,
                "step": trial.last_step,
                "repeats": trial.repeats,
                "reason": trial.reason,
            }
            | trial.params
            | scores.get(trial.number, {})
            for trial in trials
        ]
        first = ["trial", "state", "step", "repeats", "reason", *self.config.space]
        frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*first, *sorted({key for row in rows for key in row})])))
        return frame.set_index("trial").astype({"repeats": "Int64"})

    def export(self, out: str | Path, *, trial: int | None = None, formats: str = "safetensors") -> Path:
        """Write the generator of the best trial, or of `trial`, into the new folder `out`, for `gbc.export.load`.

        Raises:
            BadInput: as `search.export.export_trial`.
        """
        from search.export import export_trial

        export_trial(self.name, trial, Path(out), formats)
        return Path(out)


def read_sweep(name: str) -> SweepResult:
    """The result of a sweep in this folder, as its last run left it.

    Raises:
        BadInput: there is none, or its run has not ended yet.
    """
    from gbc.errors import BadInput
    from search.driver.summary import Summary
    from search.files.paths import existing_sweep, recorded_config

    folder = existing_sweep(name)
    summary = Summary.read(folder)
    if summary is None:
        raise BadInput(f"sweep {name!r} has not ended yet; `python search/run.py --status {name}` says how it stands")
    return SweepResult(summary, recorded_config(folder))
