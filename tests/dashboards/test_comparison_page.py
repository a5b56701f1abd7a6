"""Sweeps side by side."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from dashboards.comparison_page import _lines
from dashboards.report import main
from tests.dashboards.conftest import client
from tests.dashboards.small_sweeps import full, sweep
from tests.dashboards.test_report import SWEEP, Outline
from tests.dashboards.test_report_bad_input import error_of
from tests.support import missing
from tests.support.browser import browse, chromium


@pytest.fixture
def two(folder: Path) -> Path:
    """A second sweep `other`: the records of the first under another name, preset and sampler, with trial 0 alone."""
    record = yaml.safe_load((SWEEP / "sweep.yaml").read_text())
    other = SWEEP.with_name("other")
    other.mkdir()
    (other / "sweep.yaml").write_text(yaml.safe_dump({**record, "name": "other", "preset": "paper", "sampler": "random"}))
    (other / "study.db").write_bytes((SWEEP / "study.db").read_bytes())
    with closing(sqlite3.connect(other / "study.db")) as study, study:
        study.execute("UPDATE studies SET study_name = 'other'")
        study.execute("UPDATE trials SET state = 'PRUNED' WHERE number > 0")
    experiment = client().get_experiment_by_name("gbc-fashion_mnist").experiment_id
    for role, extra in (("sweep", {}), ("trial", {"sweep.trial": "0"})):
        run = client().create_run(experiment, tags={"sweep.name": "other", "sweep.role": role, **extra})
        client().log_metric(run.info.run_id, "ssim/coverage", 0.45, step=12)
    return folder


@pytest.mark.long
def test_two_sweeps(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare", "tiny", "other"]) == 0
    path = Path("mlruns/compare-tiny-other.html")
    assert capsys.readouterr().out.startswith(f"{path}  ")
    outline = Outline(path.read_text())
    assert [section["id"] for section in outline.all("section")] == ["results", "progress", "settings"]
    assert outline.by_section("alert") == {"header": 1} and re.search(r"finished[^.]*\bother\b", outline.words)
    assert outline.by_section("chart") == {"progress": 3} and outline.by_section("card") == {"results": 1}
    assert "sampler tpe random" in outline.words and "preset test paper" in outline.words
    assert all(image.get("alt") for image in outline.all("img"))
    if chromium() is None:
        pytest.skip("no Chromium here (Debian's package chromium)")
    with browse() as tab:
        tab.open(path.resolve().as_uri(), width=390, height=844, phone=True)
        tab.run("document.querySelectorAll('.chart').forEach((one) => one.scrollIntoView({behavior: 'instant'}))")
        tab.wait("document.querySelector('.chart[data-drawn]') !== null")
        assert tab.errors == [] and tab.run("document.documentElement.scrollWidth") == 390


def test_a_sweep_of_one_full_trial_can_be_seen() -> None:
    traces = [trace for panel in _lines([sweep(full(0, 0.3))]) for trace in panel.figure["data"]]
    assert len(traces) == 2 and all("markers" in trace["mode"] for trace in traces)  # a line of one point is invisible


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["tiny"], ["--compare ", "--sweep"]),
        (["tiny", "tiny"], ["--compare ", "--sweep"]),
        (["tiny", "tinny"], ["'tinny'", "'tiny'"]),
    ],
)
def test_bad_input(names: list[str], named: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not missing(named, error_of(capsys, "--compare", *names))
    assert not list(Path("mlruns").glob("compare*"))
