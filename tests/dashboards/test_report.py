"""The report of a real small sweep: what is in the file."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from dashboards.mlflow_runs import SweepRuns
from dashboards.report import main
from dashboards.sections.results import samples
from dashboards.sweep import read_sweep
from gbc.config import TrialConfig
from records.mlflow_store import runs_of
from search.spec.config import SweepConfig
from tests.dashboards.conftest import client
from tests.search.conftest import tiny_sweep
from tests.support import missing
from tests.support.records import play

SWEEP = Path("mlruns/sweeps/tiny")


class Outline(HTMLParser):
    """Elements with their attributes, the text outside of scripts and styles, and how often sections have each class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.count = Counter[tuple[str, str]]()
        self.words, self._open, self._section = "", "", "header"
        self.feed(text)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self._open = tag
        if tag == "section":
            self._section = str(attributes["id"])
        self.count.update((self._section, name) for name in (attributes.get("class") or "").split())

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.words += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def by_section(self, name: str) -> dict[str, int]:
        return {section: count for (section, element), count in self.count.items() if element == name}


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    return Outline(page.read_text())


def test_every_part_is_there_and_named_in_the_contents(outline: Outline) -> None:
    sections = [attributes["id"] for attributes in outline.all("section")]
    assert sections == ["best", "gallery", "training", "collapse", "search", "cost", "trials", "classifier", "reproduce"]
    links = [attributes["href"] for attributes in outline.all("a") if (attributes["href"] or "").startswith("#")]
    assert links == [f"#{identity}" for identity in sections]
    assert len(outline.all("h1")) == 1
    assert outline.by_section("chart") == {"best": 4, "training": 12, "search": 8, "cost": 1}
    assert outline.by_section("note") == {} and outline.by_section("alert") == {"header": 1, "best": 1}  # a sign of collapse


def test_the_file_stands_alone(page: Path, recorded: Path, outline: Outline) -> None:
    for tag, attributes in outline.elements:
        for key in ("src", "href"):
            value = attributes.get(key) or "#"
            assert value.startswith(("data:", "#")), (tag, value[:80])
    assert page.read_text().count("plotly.js v") == 1
    assert page.stat().st_size < 8_000_000
    assert str(recorded) not in page.read_text()  # where it was made is nobody's business


def test_it_can_be_read_without_eyes(outline: Outline) -> None:
    assert all(image.get("alt") for image in outline.all("img"))
    charts = [attributes for attributes in outline.all("div") if attributes.get("class") == "chart"]
    assert len(charts) > 20 and all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    labels = {label["for"] for label in outline.all("label")}
    assert labels == {"step", "highlight"} == {control["id"] for tag in ("input", "select") for control in outline.all(tag)}


def test_what_others_wrote_is_escaped(page: Path, outline: Outline) -> None:
    assert "RuntimeError: </script><b>broken</b> & bent" in outline.words
    assert "<b>broken" not in page.read_text() and "no <uniform> Λ" in outline.words


def test_the_files_it_offers_are_what_the_commands_take(outline: Outline) -> None:
    import base64

    saved = {
        link["download"]: yaml.safe_load(base64.b64decode((link["href"] or "").partition(",")[2]))
        for link in outline.all("a") if link.get("download")
    }  # fmt: skip
    sweep = SweepConfig.parse(saved.pop("sweep.yaml"), "sweep.yaml")
    assert sweep.name == "tiny"
    ((name, best),) = saved.items()
    trial = TrialConfig.parse(best, str(name))
    assert trial.lr != sweep.trial.lr and trial.seed != sweep.trial.seed
    assert f"python -m gbc train --config {name} --out best" in outline.words


def test_reading_changes_nothing(folder: Path) -> None:
    """Also while a driver has the study open, with what it has not yet checkpointed."""

    def state() -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if not path.name.endswith("-shm")}

    before = state()
    assert main(["--sweep", "tiny"]) == 0
    assert state() == before
    with closing(sqlite3.connect(SWEEP / "study.db")) as driver:
        driver.execute("PRAGMA journal_mode=WAL")
        driver.execute("UPDATE trial_intermediate_values SET intermediate_value = 0.9 WHERE trial_id = 1 AND step = 12")
        driver.commit()
        before = state()
        best = read_sweep("tiny").best
        assert (best.number, best.value) == (0, 0.9)
        assert state() == before


def test_a_sweep_that_is_not_over_says_so(folder: Path) -> None:
    (parent,), _ = runs_of(client(), "fashion_mnist", "tiny")
    client().update_run(parent.info.run_id, status="RUNNING")
    with closing(sqlite3.connect(SWEEP / "study.db")) as study, study:
        study.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = 9")
    assert main(["--sweep", "tiny"]) == 0
    outline = Outline((SWEEP / "report.html").read_text())
    assert outline.by_section("alert") == {"header": 2, "best": 1} and re.search(r"\b1 trial [^.]*open", outline.words)


def test_what_is_not_logged_is_left_out_and_named(folder: Path) -> None:
    (parent,), _ = runs_of(client(), "fashion_mnist", "tiny")
    for path in folder.glob(f"mlruns/artifacts/**/{parent.info.run_id}/artifacts/*.json"):
        path.unlink()
    for path in folder.glob("mlruns/artifacts/**/images/*"):
        path.unlink()
    assert 'class="note"' in samples(read_sweep("tiny"), {})  # only last pictures, so nothing moves
    for path in folder.glob("mlruns/artifacts/**/samples.png"):
        path.unlink()
    with closing(sqlite3.connect("mlflow.db")) as store, store:
        store.execute("DELETE FROM metrics WHERE key LIKE 'kkt/%'")
        store.execute("DELETE FROM latest_metrics WHERE key LIKE 'kkt/%'")
        store.execute("UPDATE metrics SET is_nan = 1, value = 0 WHERE key = 'loss/duality'")
    assert main(["--sweep", "tiny"]) == 0
    outline = Outline((SWEEP / "report.html").read_text())
    assert outline.by_section("note") == {"best": 2, "gallery": 1, "classifier": 1}
    assert outline.by_section("chart")["training"] < 12


def _files(runs: SweepRuns) -> list[object]:
    """A document and all pictures of trial 0, as the report reads them."""
    run = runs.trials()[0].id
    shown = [runs.picture(run, path) for path in ("samples.png", *runs.step_images(run).values())]
    return [runs.document("evaluation.json"), *(image and image.tobytes() for image in shown)]


def test_files_in_a_folder_here_are_read_without_mlflow(folder: Path) -> None:
    """MLflow takes a hundred times as long for each."""
    runs = read_sweep("tiny").runs
    trial = runs.trials()[0].id
    del runs._client
    assert runs.document("evaluation.json") is not None
    assert [runs.picture(trial, path) is not None for path in runs.step_images(trial).values()] == [True] * 4


def test_files_that_are_in_no_folder_here_are_fetched_by_mlflow(folder: Path) -> None:
    runs = read_sweep("tiny").runs
    files = _files(runs)
    assert len(files) == 6 and None not in files
    runs._folders.clear()
    runs._listed.clear()
    assert _files(runs) == files


def test_a_picture_that_is_cut_short_counts_as_none(folder: Path) -> None:
    for path in folder.glob("mlruns/artifacts/**/*.png"):
        path.write_bytes(path.read_bytes()[:200])
    assert main(["--sweep", "tiny"]) == 0
    assert "<figure" in (SWEEP / "report.html").read_text()


@pytest.mark.long
def test_two_objectives_and_a_smaller_that_is_better(
    tmp_path: Path, classifier_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    objectives = {"objective": {"metric": "kkt/rho", "direction": "min"}, "second_objective": {"metric": "tstr/1nn"}}
    settings = tiny_sweep(**objectives, scheduler={"name": "none"}, trials=3, keep=1)
    play(SweepConfig.parse(settings, "test"), classifier_cache, stop={}, leave={}, fail={})
    assert main(["--sweep", "tiny"]) == 0
    sweep = read_sweep("tiny")
    assert sweep.best.value == min(trial.value for trial in sweep.trials if trial.value is not None)
    assert sweep.best.number in sweep.runs.front and all(trial.second is not None for trial in sweep.trials)
    outline = Outline((SWEEP / "report.html").read_text())
    assert outline.by_section("note")["search"] == 1  # too few trials to tell what is important
    assert not missing(["kkt/rho (min)", "tstr/1nn (max)"], outline.words)


def test_help_loads_nothing_heavy() -> None:
    heavy = "jinja2|mlflow|optuna|pandas|plotly|PIL|numpy|sqlalchemy"
    program = f"""import sys, re; from dashboards import report; report.parser()
print([name for name in sys.modules if re.fullmatch('{heavy}', name)])"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.long
def test_it_runs_as_a_file_and_says_what_it_wrote(folder: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "dashboards" / "report.py"
    command = [sys.executable, str(script), "--sweep", "tiny", "--out", "deep/page.html", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout) == {"out": "deep/page.html", "bytes": Path("deep/page.html").stat().st_size}
    assert not (SWEEP / "report.html").exists()
