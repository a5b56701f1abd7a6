"""Comparisons of settings: real runs, small; the log decides what is run, the page is made of the log alone."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from PIL import Image

from gbc.__main__ import main
from gbc.errors import BadInput, CorruptFile
from gbc.metrics import distillation, evaluation, features, student
from gbc.studies import ceilings as ceilings_of
from gbc.studies import comparison, results, runs
from tests.conftest import TINY, TINY_CLASSIFIER
from tests.support import ROOT, missing

SPEC: dict[str, Any] = {
    "title": "Two settings",
    "about": "What is compared.",
    "seeds": [0, 1],
    "trial": {**TINY, "dataset": {"name": "digits", "per_class": 10}},
    "rows": {
        "plain": {"about": "as shared", "trial": {"experts": [{"classifier": {**TINY_CLASSIFIER, "seed": 5}}]}},
        "pixels": {
            "about": "no generator", "baseline": "activation",
            "trial": {"steps": 4, "report_every": 4, "batch_size": 20},
        },
    },
    "contrasts": [{"question": "does a generator help?", "row": "plain", "against": "pixels"}],
    "notes": "What it means.",
}  # fmt: skip


def shorten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(features, "STEPS", 60)
    patch.setattr(student, "STEPS", 20)
    patch.setattr(distillation, "STEPS", 20)


def execute_shortened(run: runs.Run, threads: int | None) -> None:
    """For processes of their own, where no patch is."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        runs._execute(run, threads)


@pytest.fixture(scope="module")
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        runs._evaluator_of.cache_clear()
        yield
        runs._evaluator_of.cache_clear()


def test_rows_of_any_size_are_judged_on_the_same_images_beside_their_ceilings(quick: None, tmp_path: Path) -> None:
    """Rows of 5 and 10 images a class are scored against those of 10; a wider network is a line of its own in the figure."""
    wide = {"classifier": {"hidden": 12}, "dataset": {"per_class": 5}}
    rows = {"few": {"dataset": {"per_class": 5}}, "many": {}, "wide-few": wide}
    spec = {
        **SPEC, "seeds": [0], "judged_on": {"name": "digits", "per_class": 10}, "ceilings": True, "contrasts": [],
        "rows": {name: {"about": name, "trial": trial} for name, trial in rows.items()},
    }  # fmt: skip
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    assert main(command(tmp_path)) == 0
    log, page = tmp_path / "docs" / "results" / "two", (tmp_path / "docs" / "results.md").read_text()
    records = {name: json.loads((log / name / "0.json").read_text()) for name in rows}
    assert len({record["judged_by"] for record in records.values()}) == 1
    assert {record["settings"]["dataset"]["per_class"] for record in records.values()} == {5, 10}
    comparison_of_three = comparison.load(tmp_path / "two.yaml")
    ceilings = ceilings_of.logged(comparison_of_three, log.parent)
    assert [ceilings[name]["images"] for name in rows] == [50, 100, 50] and ceilings["few"] == ceilings["wide-few"]
    score, ceiling = records["many"]["scores"]["tstr/1nn"], ceilings["many"]["tstr/1nn"]
    row = next(line for line in page.splitlines() if line.startswith("| `many` | many | 100 |"))
    assert f"| {score:.3f} | {ceiling:.3f} | {score / ceiling:.0%} |" in row
    assert Image.open(tmp_path / "docs" / "images" / "two.png").width > 500 and "(images/two.png)" in page

    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**spec, "judged_on": {"name": "digits", "per_class": 20}}))
    rejudged = comparison.load(tmp_path / "two.yaml")
    assert not any(run.logged() for run in runs.all_runs(rejudged, log.parent, tmp_path / "cache"))
    assert not ceilings_of.logged(rejudged, log.parent) and not runs.logged_controls(rejudged, log.parent)

    known = json.loads((log / "ceilings.json").read_text())
    known["scores"]["many"]["tstr/cnn"] = 0.25  # not what measuring it again would give
    (log / "ceilings.json").write_text(json.dumps(known))
    spec["rows"]["few"]["trial"] = {"dataset": {"per_class": 6}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(spec))
    changed = comparison.load(tmp_path / "two.yaml")
    assert not ceilings_of.logged(changed, log.parent)
    again = ceilings_of.obtain(changed, log.parent)
    assert [again[name]["images"] for name in rows] == [60, 100, 50] and again["many"]["tstr/cnn"] == 0.25
    assert again["wide-few"] == ceilings["wide-few"] != again["few"] and ceilings_of.logged(changed, log.parent) == again

    for name, scores in {"ceilings": again, "controls": runs.logged_controls(changed, log.parent)}.items():
        (log / f"{name}.json").write_text(json.dumps(scores))  # as it was before the images were logged too
    assert ceilings_of.logged(rejudged, log.parent) == again and runs.logged_controls(rejudged, log.parent)
    (log / "ceilings.json").write_text("{")
    with pytest.raises(CorruptFile, match=r"ceilings\.json: "):
        ceilings_of.logged(rejudged, log.parent)


def test_controls_are_measured_again_with_another_number_of_images(finished: Path) -> None:
    folder = finished / "docs" / "results"
    more = {**SPEC, "name": "two", "trial": {**SPEC["trial"], "eval_per_class": 6}}
    same, other = (comparison.Comparison.parse(spec, "test") for spec in ({**SPEC, "name": "two"}, more))
    assert runs.logged_controls(same, folder) and not runs.logged_controls(other, folder)


@pytest.fixture(scope="module")
def finished(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "two.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    assert main(command(folder)) == 0
    return folder


def command(folder: Path, *more: str) -> list[str]:
    files = ["--out", str(folder / "docs" / "results.md"), "--cache", str(folder / "cache")]
    return ["results", str(folder / "two.yaml"), *files, *more]


@pytest.mark.long
def test_each_run_is_logged_with_its_settings_scores_and_a_picture(finished: Path) -> None:
    folder = finished / "docs" / "results" / "two"
    for row in SPEC["rows"]:
        for seed in (0, 1):
            record = json.loads((folder / row / f"{seed}.json").read_text())
            assert set(record["scores"]) == {*evaluation.MEASURES, *evaluation.DISTILLATION}
            assert record["settings"]["seed"] == record["settings"]["classifier"]["seed"] == seed
            assert record["cost"]["cost/parameters"] > 0 and record["residuals"][0]
            assert "half" in record["judged_by"]
        assert Image.open(folder / row / "0.png").size == (100, 40)  # ten classes, four of each, 8 + 2 pixels
        assert not (folder / row / "1.png").exists()
    assert json.loads((folder / "plain" / "1.json").read_text())["settings"]["experts"][0]["classifier"]["seed"] == 6


def test_the_page_is_made_of_the_log(finished: Path) -> None:
    page = (finished / "docs" / "results.md").read_text()
    first, second = (
        json.loads((finished / "docs" / "results" / "two" / "plain" / f"{seed}.json").read_text())["scores"]["tstr/cnn"]
        for seed in (0, 1)
    )
    mean, deviation = (first + second) / 2, abs(first - second) / math.sqrt(2)
    row = next(line for line in page.splitlines() if line.startswith("| `plain`"))
    assert f"{mean:.3f} ± {deviation:.3f}" in row
    assert "| *other real images* | control |" in page and "What it means." in page
    assert "![plain](results/two/plain/0.png)" in page and (finished / "docs/results/two/plain/0.png").exists()
    assert " of 4 " not in page  # nothing is missing


def test_what_is_logged_is_not_run_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = finished / "docs" / "results.md"
    before = page.read_bytes()
    assert main(command(finished)) == 0
    captured = capsys.readouterr()
    assert "two: 4 of 4 " in captured.err and "1/" not in captured.err
    assert captured.out.strip() == str(page) and page.read_bytes() == before


def test_sections_of_other_comparisons_stay_in_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, configs = tmp_path / "results.md", ROOT / "configs" / "results"
    command = ["results", "--page-only", "--out", str(page), "--log", str(ROOT / "docs" / "results")]
    assert main([*command, str(configs / "mnist.yaml"), str(configs / "few_images.yaml")]) == 0
    both = page.read_text()
    capsys.readouterr()
    assert main([*command, str(configs / "mnist.yaml")]) == 0
    assert page.read_text() == both and both.count("\n## ") == 2
    assert "100 images" in capsys.readouterr().err


def test_other_settings_are_other_runs(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**SPEC, "trial": {**SPEC["trial"], "ce_weight": 0.2}}, sort_keys=False))
    log = ["--log", str(finished / "docs" / "results")]
    assert main(["results", str(tmp_path / "two.yaml"), "--dry-run", *log]) == 0
    states = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert states == ["missing", "logged", "missing", "logged"]  # the baseline has a weight of its own
    out = tmp_path / "page.md"
    assert main(["results", str(tmp_path / "two.yaml"), "--page-only", "--out", str(out), *log]) == 0
    assert "**2 of 4 " in out.read_text() and "| `plain` |" not in out.read_text()


@pytest.mark.long
def test_two_at_a_time_give_what_one_gives(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = comparison.load(finished / "two.yaml")
    one_at_a_time = [run for run in runs.all_runs(wanted, finished / "docs" / "results", finished / "cache") if run.seed == 0]
    two_at_a_time = [run for run in runs.all_runs(wanted, tmp_path, finished / "cache") if run.seed == 0]
    assert not any(run.logged() for run in two_at_a_time)
    monkeypatch.setattr(runs, "_execute", execute_shortened)
    runs.complete(two_at_a_time, 2, lambda _: None)
    for mine, other in zip(two_at_a_time, one_at_a_time, strict=True):
        after, before = mine.logged(), other.logged()
        assert after and before
        for name in ("loss/total", "ssim/coverage", "classifier/accuracy"):
            # The order of sums depends on the number of threads.
            assert after.report[name] == pytest.approx(before.report[name], rel=1e-3)


def test_a_signal_ends_runs_at_the_same_time_with_their_processes(tmp_path: Path) -> None:
    endless = {**SPEC, "rows": {"plain": SPEC["rows"]["plain"]}, "contrasts": []}
    endless["trial"] = {**SPEC["trial"], "steps": 10**6, "report_every": 10**6}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(endless))
    process = subprocess.Popen(
        [sys.executable, "-m", "gbc", *command(tmp_path, "--jobs", "2")], cwd=ROOT, stderr=subprocess.PIPE
    )

    def working() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()
        with contextlib.suppress(psutil.NoSuchProcess):  # one has just ended
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        return []

    while len(processes := working()) < 2 or min(child.cpu_times().user for child in processes) < 1:
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in error, error
    assert not psutil.wait_procs(processes, timeout=10)[1]


def test_differences_are_paired_by_seed(finished: Path) -> None:
    wanted = comparison.load(finished / "two.yaml")
    cells = runs.all_runs(wanted, finished / "docs" / "results", finished / "cache")
    log = results.Log.read(wanted, cells, {})
    mean, deviation, higher, pairs = results.difference(log, "plain", "pixels", "tstr/cnn")
    values = [log.records["plain", seed].scores["tstr/cnn"] - log.records["pixels", seed].scores["tstr/cnn"] for seed in (0, 1)]
    assert mean == pytest.approx(sum(values) / 2) and deviation == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert (higher, pairs) == (sum(value > 0 for value in values), 2)
    alone = results.Log(wanted, cells, {key: value for key, value in log.records.items() if key != ("pixels", 1)}, {})
    assert results.difference(alone, "plain", "pixels", "kid")[3] == 1


def test_a_damaged_record_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = finished / "docs" / "results" / "two" / "plain" / "1.json"
    before = path.read_text()
    try:
        path.write_text(before[:100])
        assert main(command(finished)) == 2
        assert f"{path}: " in capsys.readouterr().err
    finally:
        path.write_text(before)
    with pytest.raises(CorruptFile, match=r"controls\.json: "):
        (finished / "other" / "two").mkdir(parents=True)
        (finished / "other" / "two" / "controls.json").write_text("{")
        runs.logged_controls(comparison.load(finished / "two.yaml"), finished / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": {"plain": {"about": "x", "trial": {"lr_": 1}}}, "contrasts": []}, "row plain: 'lr_'"),
        ({"rows": {"plain": {"about": "x", "baseline": "activations"}}, "contrasts": []}, "'activation'"),
        ({"contrasts": [{"question": "?", "row": "plain", "against": "pixel"}]}, "row 'pixel'"),
        ({"seeds": []}, "seeds"),
        ({"rows": {}}, "rows"),
    ],
)
def test_a_bad_comparison_is_refused_before_anything_runs(
    tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**SPEC, **change}, sort_keys=False))
    assert main(command(tmp_path)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two.yaml"]


def test_bad_flags_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    assert main(command(tmp_path, "--row", "plane")) == 2
    assert not missing(["--row plane: ", "'plain'"], capsys.readouterr().err)
    with pytest.raises(SystemExit) as caught:
        main(command(tmp_path, "--jobs", "0"))
    assert caught.value.code == 2 and "--jobs: 0: " in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--log", "/proc/x"], ["--log", "file"], ["--out", "/proc/page.md"], ["--out", "folder"]])
def test_a_log_or_page_that_cannot_be_written_is_refused_before_anything_runs(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    monkeypatch.setattr(runs, "complete", None)  # it would be called
    assert main(["results", "two.yaml", "--out", "page.md", *flags]) == 2
    error = capsys.readouterr().err
    assert not missing(flags, error) and error.count("\n") == 1


def test_points_have_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = {"dataset": {"name": "circle"}, "classifier": {**TINY_CLASSIFIER, "name": "mlp"}, "tv_weight": 0.0}
    spec = {"title": "x", "seeds": [0], "rows": {"one": {"about": "x", "trial": trial}}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    assert main(command(tmp_path)) == 2
    assert not missing(["circle ", "points"], capsys.readouterr().err)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "results").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_comparison_is_sound(path: Path) -> None:
    study = comparison.load(path)
    assert (len(study.seeds) >= 3 or "One seed" in study.about) and study.contrasts


def test_the_shipped_page_is_what_the_log_gives(tmp_path: Path) -> None:
    shipped = ROOT / "docs" / "results.md"
    files = [str(path) for path in sorted((ROOT / "configs" / "results").glob("*.yaml"))]
    out = tmp_path / "results.md"
    log = ["--log", str(ROOT / "docs" / "results")]
    assert main(["results", *files, "--page-only", "--out", str(out), *log]) == 0
    # Pictures are linked from where the page lies; nothing else depends on it.
    assert [line for line in out.read_text().splitlines() if "![" not in line] == [
        line for line in shipped.read_text().splitlines() if "![" not in line
    ]


def test_seeds_are_added_to_every_seed() -> None:
    settings = comparison.Comparison.parse({"name": "x", **SPEC}, "test").settings("plain", 3)
    assert (settings.seed, settings.classifier.seed, settings.experts[0].classifier.seed) == (3, 3, 8)
    with pytest.raises(BadInput, match="'none'"):
        comparison.Comparison.parse(
            {"name": "x", "title": "x", "seeds": [0], "rows": {"a": {"about": "", "baseline": "none"}}}, "test"
        ).settings("a", 0)
