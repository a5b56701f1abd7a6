"""Sweeps without images: what they are, their end in all records, the report, and one sweep as a user runs it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from rich.console import Console

from dashboards.comparison_page import comparison_page
from dashboards.sweep import read_sweep
from gbc import export
from gbc.classifiers import pretrain
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.errors import BadInput
from gbc.metrics.scores import METRICS
from gbc.report import IMAGE_METRICS, STUDENT_METRIC
from records.paths import REPORT
from search.driver.finalize import AUDIT, EVALUATION, conclude
from search.driver.progress import ProgressDisplay
from search.driver.summary import Summary, summarise
from search.export import main as export_main
from search.files.paths import CLASSIFIERS, sweep_folder
from search.run import main
from search.spec.config import SweepConfig
from search.spec.resolve import objective_flags, requirement_flags, resolve
from search.study.ledger import Ledger
from search.tracking import ui_view
from search.tracking.tracker import Tracker
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support import missing
from tests.support.data_free import without_images
from tests.support.records import play
from tests.support.workplace import Workplace

pytestmark = pytest.mark.long

FREE = {"metric": "free/score", "direction": "max"}


def ask(**arguments: Any) -> SweepConfig:
    defaults = {"dataset": "none", "preset": None, "config": None, "flags": {}, "assignments": {}}
    return resolve(**{**defaults, **arguments}, slots=lambda _: 2)


def test_the_metrics_that_need_images_are_all_known() -> None:
    assert set(IMAGE_METRICS) == {*METRICS, STUDENT_METRIC}


def test_the_objective_is_free_score_unless_another_is_named(tmp_path: Path) -> None:
    for asked in (ask(), ask(preset="paper"), ask(dataset="fashion_mnist", assignments={"dataset.name": "none"})):
        assert (asked.dataset, asked.objective.metric, asked.objective.direction) == ("none", "free/score", "max")
    assert ask(assignments={"dataset": "none"}).name == "none-quick"
    assert ask(flags=objective_flags("kkt/rho")).objective.direction == "min"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "trial": {"dataset": "none"}, "trials": 2}))
    assert ask(config=tmp_path / "mine.yaml", flags=requirement_flags(["kkt/active=0.1"])).objective.metric == "free/score"


@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_an_objective_that_needs_images_is_refused(metric: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (objective_flags(metric), objective_flags(f"free/score,{metric}"), requirement_flags([f"{metric}=0.5"]))
    for flags, flag in zip(asked, ("--objective", "--objective", "--require"), strict=True):
        with pytest.raises(BadInput) as fault:
            ask(flags=flags)
        assert not missing([flag, metric, "free/score"], fault.value) and "\n" not in str(fault.value)


def test_without_weights_it_ends_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dataset", "none", "--concurrency", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 1
        and not missing(["none", "--weights"], lines[0])
        and not (tmp_path / "mlruns" / "sweeps" / "none").exists()
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, classifier_cache: Path) -> Iterator[tuple[SweepConfig, Summary, str]]:
    """Two trials complete, one stopped early; concluded, in the current folder."""
    folder = tmp_path_factory.mktemp("data-free")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copytree(classifier_cache, CLASSIFIERS)
        trial = without_images(CLASSIFIERS.resolve())
        config = SweepConfig.parse(tiny_sweep(trial=trial, trials=3, keep=1, objective=FREE), "test")
        play(config, CLASSIFIERS, stop={2: 6}, leave={}, fail={})
        ledger, tracker, printed = Ledger(config, sweep_folder("tiny")), Tracker(config, {}), io.StringIO()
        summary = summarise(config, ledger, tracker.metrics, sweep_folder("tiny"))
        conclude(config, ledger.entries(), tracker, summary, Console(file=printed, width=300))
        ledger.close()
        yield config, summary, printed.getvalue()


Ended = tuple[SweepConfig, Summary, str]


def test_no_record_has_a_score_against_images(ended: Ended) -> None:
    _, summary, printed = ended
    store = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
    experiment = store.get_experiment_by_name("gbc-none")
    assert experiment is not None and "note:" not in printed
    runs = {run.info.run_name: run for run in store.search_runs([experiment.experiment_id])}
    for run in runs.values():
        assert not set(run.data.metrics) & set(IMAGE_METRICS)
    assert summary.best_value == summary.best_metrics["free/score"] and summary.scale == {} and summary.free_rank is None
    files = {file.path for file in store.list_artifacts(runs["tiny"].info.run_id)}
    assert AUDIT in files and EVALUATION not in files
    note = runs["tiny"].data.tags["mlflow.note.content"]
    assert not missing(["free/score", "compared with no image", "without any image"], note)
    assert "| black |" not in note and "nearest" not in note


def test_the_last_lines_say_what_is_not_known(ended: Ended) -> None:
    _, summary, printed = ended
    assert not missing(["no image", "not known"], summary.verdict[-1]) and "gbc-none version 1" in printed


def test_the_report_says_it_too(ended: Ended) -> None:
    page = (sweep_folder("tiny") / REPORT).read_text()
    assert not missing(["There were no images", "python -m gbc evaluate", "free/score", "Every row", "without images"], page)
    assert "ssim/" not in page.split("<h2>Reproduce")[0] and "Even rows" not in page


def test_a_comparison_says_which_sweeps_had_no_images(ended: Ended) -> None:
    sweep = read_sweep("tiny")
    page = comparison_page([sweep, sweep])
    assert not missing(["Without images: tiny", "its free/score"], page)
    assert "way to real images in" not in page and "its ssim/coverage" not in page


def test_an_export_of_it_is_evaluated_when_images_come(
    ended: Ended, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_main(["--sweep", "tiny", "--out", str(tmp_path / "model")]) == 0
    assert not missing(["free/score", "--images"], capsys.readouterr().out)
    assert export.load(tmp_path / "model").sample([1]).shape == (1, 1, 28, 28)


def test_another_classifiers_champion_does_not_compare(ended: Ended, tmp_path: Path) -> None:
    from search.spec.config import Objective
    from search.tracking import registry

    config, _, _ = ended
    assert export_main(["--sweep", "tiny", "--out", str(tmp_path / "model"), "--format", "torch"]) == 0
    header = json.loads((tmp_path / "model" / export.CONFIG).read_text())
    header["origin"]["classifiers"][0]["digest"] = "another"
    (tmp_path / "model" / export.CONFIG).write_text(json.dumps(header))
    tracker = Tracker(config, {})
    version = registry.register(
        tmp_path / "model", client_uri=tracker.uri, name="gbc-none", run_id=tracker.parent, sweep="other", trial=0,
        objective=Objective.parse(FREE, "test"), score=1.0,
    )  # fmt: skip
    assert not version.champion and not missing(["other classifiers", "version 1"], version.reason)


def test_views_show_what_is_measured(ended: Ended) -> None:
    config, _, _ = ended
    assert not any(metric in str((ui_view._columns(config), ui_view._charts(config))) for metric in IMAGE_METRICS)
    with_images = SweepConfig.parse(tiny_sweep(), "test")
    for asked, expected in ((config, False), (with_images, True)):
        columns = ProgressDisplay(asked, Console(file=io.StringIO()))._columns()
        assert ("tstr/1nn" in columns) is expected and ("free/score" in columns) is not expected


@pytest.mark.sweep
def test_a_sweep_without_images(workplace: Workplace) -> None:
    trained = TrialConfig.parse(TINY, "tests")
    pretrain.obtain(trained.classifier, datasets.load(trained.dataset), workplace.folder)
    trial = without_images(workplace.folder)
    code, output = workplace.run("--config", workplace.file("blind", trial=trial, objective={}), "--trials", "2", report=True)
    assert code == 0, output
    assert not missing(["objective free/score (max)", "weights as given", "best: trial-", "no image", "report.html"], output)
    assert "ssim/" not in output and "nan" not in output and "Traceback" not in output and "note:" not in output
