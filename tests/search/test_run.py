"""The command line, up to the point where Ray would start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gbc.data import datasets
from gbc.errors import BadInput
from search.driver import sweep
from search.driver.preflight import largest_trial
from search.driver.resources import Machine
from search.run import main, parser
from search.spec import flags
from search.spec.config import Resources, SweepConfig
from search.spec.flags import minutes
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep
from tests.support import ROOT


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_dry_run_prints_the_resolved_sweep_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "mnist", "--preset", "paper", "--trials", "7", "--set", "lr=1e-3", "--dry-run"]) == 0
    shown = SweepConfig.parse(yaml.safe_load(capsys.readouterr().out), "shown")
    assert (shown.name, shown.trials, shown.trial.lr) == ("mnist-paper", 7, 1e-3)
    assert list(tmp_path.iterdir()) == []
    assert main(["--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "fashion_mnist-quick"


def test_a_dry_run_shows_the_places_without_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--storage", "shared", "--study-url", "postgresql://me:word@db/x", "--tracking-uri", "http://me:word@host:5000"]
    assert main([*places, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["places"] == {
        "storage": str(tmp_path / "shared"),
        "study_url": "postgresql+psycopg://me@db/x",
        "tracking_uri": "http://me@host:5000",
    }
    assert "word" not in shown


def test_a_dry_run_shows_the_budgets_and_both_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--objective", "ssim/coverage,kkt/rho", "--max-steps", "9000", "--patience", "5", "--dry-run"]) == 0
    output = capsys.readouterr()
    assert output.err == "note: with two objectives no trial is stopped early (scheduler none)\n"
    shown = yaml.safe_load(output.out)
    assert (shown["max_steps"], shown["patience"], shown["scheduler"]["name"]) == (9000, 5, "none")
    assert shown["second_objective"] == {"metric": "kkt/rho", "direction": "min"}


def test_the_users_classifier_is_named_by_absolute_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--classifier", "nets:net", "--weights", "net.pt", "--card", "about.yaml"]
    assert flags.settings(parser().parse_args(words)) == {
        "trial.classifier.factory": "nets:net",
        "trial.classifier.weights": str(tmp_path / "net.pt"),
        "trial.classifier.card": str(tmp_path / "about.yaml"),
    }
    assert main([*words, "--dry-run"]) == 2
    assert "net.pt: cannot be read: there is no such file" in capsys.readouterr().err
    assert main(["--classifier", "conv", "--dry-run"]) == 0
    assert SweepConfig.parse(yaml.safe_load(capsys.readouterr().out), "shown").trial.classifier.name == "conv"


def test_a_factory_is_found_in_the_current_folder(tmp_path: Path) -> None:
    """As with `python -m`; here the command gets as far as the network's shape."""
    (tmp_path / "nets.py").write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 9))")
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--classifier", "nets:net"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: classifier nets:net: returns [2, 9] for two images, not [2, 10]" in done.stderr


def test_what_a_dry_run_prints_can_be_run(sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(sweep_file), "--dry-run"]) == 0
    printed = sweep_file.with_name("printed.yaml")
    printed.write_text(capsys.readouterr().out)
    assert main(["--config", str(printed), "--dry-run"]) == 0
    assert capsys.readouterr().out == printed.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "fashion_mnits"], "unknown dataset 'fashion_mnits'; did you mean 'fashion_mnist'?"),
        (["--preset", "papre"], "unknown preset 'papre' for fashion_mnist; did you mean 'paper'?"),
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--config", "none.yaml", "--preset", "quick"], "--config and --preset exclude each other"),
        (["--objective", "sim/coverage"], "--objective: unknown metric 'sim/coverage'; did you mean 'ssim/coverage'?"),
        (["--objective", "ssim/coverage,kkt/rho,tstr/1nn"], "--objective: 3 metrics; a sweep takes one, or two with a comma"),
        (["--objective", "ssim/coverage,kkt/rh"], "unknown metric 'kkt/rh'; did you mean 'kkt/rho'?"),
        (["--objective", "ssim/coverage,kkt/rho", "--scheduler", "asha"], "scheduler asha cannot weigh two objectives"),
        (["--objective", "kkt/rho,kkt/rho", "--scheduler", "none"], "both objectives are kkt/rho"),
        (["--max-steps", "0"], "--max-steps: 0 should be greater than or equal to 1"),
        (["--patience", "-1"], "--patience: -1 should be greater than or equal to 1"),
        (["--set", "lrr=1"], "'trial.lrr' is not a setting; did you mean 'lr'?"),
        (["--set", "lr=-1"], "--set lr: -1 should be greater than 0"),
        (["--set", "lr=fast"], "--set lr: 'fast' should be a valid number"),
        (["--set", "lr"], "expected KEY=VALUE"),
        (["--steps", "0"], "--steps: 0 should be greater than or equal to 1"),
        (["--trials", "-3"], "--trials: -3 should be greater than or equal to 1"),
        (["--name", "a/b"], "--name: 'a/b' must start with a letter or digit"),
        (["--cpus-per-trial", "500"], "--cpus-per-trial 500: this machine has"),
        (["--gpus-per-trial", "64"], "--gpus-per-trial 64: this machine has"),
        (["--keep", "0"], "--keep: 0 should be greater than or equal to 1"),
        (["--retries", "-1"], "--retries: -1 should be greater than or equal to 0"),
        (["--concurrency", "9999"], "--concurrency 9999: only"),
        (["--pack", "4"], "--pack: pack 4: trials no longer train in packs"),
        (["--address", "10.0.0.1"], "--address 10.0.0.1: must be auto or HOST:PORT"),
        (["--address", "ray://a:1"], "--address ray://a:1: through a Ray client Tune would run far from the records"),
        (["--address", "127.0.0.1:1", "--trials", "1"], "name a folder or URL that every node sees with --storage"),
        (["--address", "127.0.0.1:1", "--trials", "1", "--storage", "x"], "--address 127.0.0.1:1: nobody answers there"),
        (["--storage", "nosuch://x/y"], "--storage nosuch://x/y: cannot be used: "),
        (["--storage", "/proc/none"], "/proc/none/fashion_mnist-quick: cannot be written"),
        (["--study-url", "mysql://me:word@a/b"], "--study-url mysql://me@a/b: must be postgresql://USER@HOST:5432/DATABASE"),
        (["--tracking-uri", "localhost"], "--tracking-uri localhost: must be a URL such as http://HOST:5000"),
        (["--tracking-uri", "http://127.0.0.1:1"], "MLflow store http://127.0.0.1:1: cannot be used: "),
        (["--data-root", "nowhere"], "no FashionMNIST under"),
        (["--set", "classifier.name=vit"], "unknown classifier 'vit'"),
        (["--classifier", "nets:net"], "there is no module 'nets' here"),
        (["--classifier", ":net"], "--classifier: ':net' must be written package.module:factory"),
        (["--weights", "none.pt"], "none.pt: cannot be read"),
        (["--card", "none.yaml"], "card describes weights, and there are none"),
        (["--set", "dataset.per_class=51"], "give the full set with --data-root"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert message in output.err
    assert not (tmp_path / "mlflow.db").exists()
    assert not list(tmp_path.rglob("sweep.yaml"))  # the mended command is not "other settings"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "bayes"], "--sampler: invalid choice: 'bayes'"),
        (["--trials", "many"], "--trials: 'many' is not a whole number"),
        (["--unknown"], "--unknown is not a flag of this command; see --help"),
        (["--trial", "3"], "--trial is not a flag of this command; did you mean --trials?"),
        (["--device", "cuda"], "--device is not a flag; write --set device=VALUE"),
        (["--check", ""], "--check: the value is empty (a shell variable that is not set?)"),
        (["--status="], "--status: the value is empty"),
        (["--time-budget", "soon"], "--time-budget: 'soon': write for example 90s, 45m or 8h"),
    ],
)
def test_what_the_parser_refuses_is_one_line_and_exit_code_2_too(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith(f"error: {message}") and error.count("\n") == 1


def test_the_same_name_with_other_settings_shows_the_difference(sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SweepConfig.parse(tiny_sweep(), "tests")
    record = sweep.sweep_folder("tiny") / "sweep.yaml"
    record.parent.mkdir(parents=True)
    record.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    before = record.read_text()
    assert main(["--config", str(sweep_file), "--seed", "5", "--set", "beta=3"]) == 2
    error = capsys.readouterr().err
    assert "sweep 'tiny' was started with other settings" in error
    assert "seed: 1 on record, 5 asked for" in error and "trial.beta: 0.01 on record, 3.0 asked for" in error
    assert record.read_text() == before


def test_a_damaged_record_is_named(sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = sweep.sweep_folder("tiny") / "sweep.yaml"
    record.parent.mkdir(parents=True)
    record.write_text("trial: [")
    assert main(["--config", str(sweep_file)]) == 2
    assert "sweep.yaml: not valid YAML" in capsys.readouterr().err


def test_budgets_may_grow_and_are_kept_when_nothing_is_said() -> None:
    record = SweepConfig.parse(tiny_sweep(trials=9, time_budget=5.0), "tests")
    path = sweep.sweep_folder("tiny") / "sweep.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(record.model_dump(mode="json", exclude_none=True)))
    asked = SweepConfig.parse(tiny_sweep(trials=20), "tests")
    assert sweep.settle_with_record(asked, set()).trials == 9
    assert sweep.settle_with_record(asked, {"trials"}).trials == 20
    assert sweep.settle_with_record(asked, {"trials"}).time_budget == 5.0
    asked = SweepConfig.parse(tiny_sweep(max_steps=99, patience=4, retries=7, keep=1), "tests")
    settled = sweep.settle_with_record(asked, {"patience", "keep"})
    assert (settled.trials, settled.max_steps, settled.patience, settled.retries, settled.keep) == (9, None, 4, 2, 1)


def test_the_order_of_the_space_is_the_records() -> None:
    record = SweepConfig.parse(tiny_sweep(), "tests")
    path = sweep.sweep_folder("tiny") / "sweep.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(record.model_dump(mode="json", exclude_none=True), sort_keys=False))
    turned = SweepConfig.parse(tiny_sweep(space=dict(reversed(record.model_dump(mode="json")["space"].items()))), "tests")
    assert list(turned.space) != list(record.space)
    assert list(sweep.settle_with_record(turned, set()).space) == list(record.space)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"time_budget": 1.0}, "its time is up; more: a longer --time-budget"),
        ({"max_steps": 15}, "its optimiser steps are used up; more: a larger --max-steps"),
        ({"patience": 1}, "the best has not improved in 1 full trials; more: a larger --patience"),
    ],
)
def test_failed_trials_do_not_run_again_when_a_budget_would_end_them(
    budget: dict[str, float], message: str, sweep_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SweepConfig.parse(tiny_sweep(trials=3, **budget), "tests")
    folder = sweep.sweep_folder("tiny")
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    ledger = Ledger(config, folder)
    for value in (0.5, 0.4):
        number = ledger.ask().number
        ledger.record(number, 12, value, stop=False)
        ledger.tell(number, "complete")
    ledger.tell(ledger.ask().number, "failed", "MemoryError")
    ledger.set_seconds(60.0)
    ledger.close()
    assert main(["--config", str(sweep_file), "--retry-failed"]) == 2
    assert f"error: --retry-failed: {message}" in capsys.readouterr().err
    assert Ledger(config, folder).entry(2).state == "failed"
    more = config.model_copy(update={key: value * 10 for key, value in budget.items()})
    assert sweep.finished_summary(more, retry_failed=True) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlruns").write_text("a file where a folder must be")
    assert main(["--config", str(sweep_file)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_missing_data_file_is_named(
    tmp_path: Path, sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "ASSETS", tmp_path / "assets")
    assert main(["--config", str(sweep_file)]) == 2
    assert "fashion_mnist.npz.xz: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("90s", 1.5), ("45m", 45), ("8h", 480), ("30", 30), ("1.5h", 90)])
def test_time_budgets_are_minutes_unless_they_say_otherwise(text: str, expected: float) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "concurrency", "share"),
    [
        ({}, 2, 0, 2, 0.0),
        ({"cpus_per_trial": 2.0}, 8, 0, 4, 0.0),
        ({"cpus_per_trial": 0.5}, 2, 0, 4, 0.0),
        ({}, 16, 1, 16, 1 / 16),
        ({}, 16, 3, 16, 1 / 6),
        ({}, 2, 8, 2, 1.0),
        ({"gpus_per_trial": 0.25}, 16, 1, 4, 0.25),
        ({"gpus_per_trial": 0.0}, 16, 1, 16, 0.0),
        ({"gpus_per_trial": 2.0}, 16, 8, 4, 2.0),
        ({"concurrency": 1}, 2, 0, 1, 0.0),
    ],
)
def test_as_many_trials_run_at_once_as_fit(
    resources: dict[str, float], cpus: int, gpus: int, concurrency: int, share: float
) -> None:
    machine = Machine.local(Resources.parse(resources, "test"), cpus=cpus, gpus=gpus)
    assert (machine.concurrency, machine.gpus_per_trial) == (concurrency, share)
    assert machine.threads == max(1, int(machine.cpus_per_trial))


@pytest.mark.parametrize(
    ("resources", "gpus", "gigabytes", "concurrency", "share"),
    [
        ({}, 1, 3, 16, 1 / 16),
        ({}, 1, 10, 8, 1 / 8),
        ({}, 4, 50, 4, 1.0),
        ({"concurrency": 6}, 1, 10, 6, 1 / 6),
        ({"concurrency": 6}, 2, 35, 4, 1 / 2),
        ({"gpus_per_trial": 0.5}, 1, 70, 2, 0.5),
    ],
)
def test_a_gpu_takes_as_many_trials_as_its_memory_holds(
    resources: dict[str, float], gpus: int, gigabytes: int, concurrency: int, share: float
) -> None:
    asked = Resources.parse(resources, "test")
    machine = Machine.local(asked, cpus=16, gpus=gpus).fitted(asked, gigabytes * 10**9, 80 * 10**9)
    assert (machine.concurrency, machine.gpus_per_trial) == (concurrency, share)


def test_a_trial_that_no_gpu_can_hold_is_refused() -> None:
    with pytest.raises(BadInput, match=r"takes 90\.0 GB of a GPU's memory and 80\.0 GB are free; lower batch_size"):
        Machine.local(Resources(), cpus=16, gpus=1).fitted(Resources(), 90 * 10**9, 80 * 10**9)


def test_the_largest_trial_is_measured(config: SweepConfig) -> None:
    largest = largest_trial(config)
    assert (largest.batch_size, largest.width) == (32, config.trial.width)


def test_asking_for_more_than_the_machine_has_is_refused() -> None:
    for asked in ({"gpus_per_trial": 2.0}, {"cpus_per_trial": 3.0}, {"concurrency": 3}):
        with pytest.raises(BadInput, match=r"this machine has|fit on this machine"):
            Machine.local(Resources.parse(asked, "test"), cpus=2, gpus=1)


@pytest.mark.parametrize("script", ["search/run.py", "search/export.py"])
def test_help_is_printed_before_anything_heavy_is_imported(script: str) -> None:
    program = f"""
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
assert not {{"torch", "ray", "mlflow", "optuna", "numpy", "pydantic", "rich"}} & set(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert shown.startswith("usage: python search/")


def test_export_of_a_sweep_that_is_not_there_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    from search.export import main as export

    assert export(["--sweep", "tiny", "--out", "new"]) == 2
    assert "no sweep 'tiny' here; start one with python search/run.py" in capsys.readouterr().err
    (sweep.sweep_folder("tiny") / "x").mkdir(parents=True)
    (sweep.sweep_folder("tiny") / "study.db").write_text("")
    assert export(["--sweep", "tinny", "--out", "new"]) == 2
    assert "did you mean 'tiny'?" in capsys.readouterr().err
