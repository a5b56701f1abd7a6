"""A sweep small enough to run for real in a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from search.spec.config import SweepConfig
from search.spec.resolve import resolve
from tests.conftest import TINY

if TYPE_CHECKING:
    from search.study.ledger import Ledger
    from tests.support.workplace import Workplace


def tiny_sweep(**changes: object) -> dict[str, object]:
    """The settings of a small sweep, as a YAML file would hold them."""
    return {
        "name": "tiny",
        "preset": "test",
        "trial": TINY,
        "space": {"lr": {"log10": [-3.5, -2.0]}, "batch_size": {"choice": [16, 32]}, "tv_weight": {"uniform": [0.0, 1.0]}},
        "scheduler": {"reduction_factor": 2, "grace": 3},
        "trials": 4,
        "seed": 1,
        **changes,
    }


def resolved_sweep(**arguments: object) -> SweepConfig:
    """The sweep of a command line on a machine for two trials: `arguments` are those of `resolve`."""
    defaults = {"dataset": "fashion_mnist", "preset": None, "config": None, "flags": {}, "assignments": {}}
    return resolve(**{**defaults, **arguments}, slots=lambda _: 2)  # type: ignore[arg-type]


def fill(ledger: Ledger, *trials: tuple[float, str | None]) -> None:
    """New trials that report one value each, with their outcomes; one without an outcome stays open."""
    for value, outcome in trials:
        number = ledger.ask().number
        for step in (3, 6, 9, 12) if outcome == "complete" else (3, 6):
            ledger.record(number, step, value, stop=outcome == "stopped" and step == 6)
        if outcome:
            ledger.tell(number, outcome, "MemoryError" if outcome == "failed" else None)


@pytest.fixture
def config() -> SweepConfig:
    return SweepConfig.parse(tiny_sweep(), "tests")


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_sweep()))
    return path


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """One folder for the module: MLflow's database takes seconds to create, the classifier is shared."""
    from tests.support.workplace import Workplace

    old = os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield Workplace(tmp_path_factory.mktemp("sweeps"))
    if old:
        os.environ["MLFLOW_TRACKING_URI"] = old


@pytest.fixture
def records(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the module's `template` has filled, to work in and to damage."""
    from mlflow.tracking._tracking_service import utils

    from tests.support.records import move

    move(template, tmp_path)
    utils._artifact_repos_cache.clear()  # by run, and every copy of the template has the same runs
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path
