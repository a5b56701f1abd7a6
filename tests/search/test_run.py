"""The command line, up to the point where Ray would start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gbc.data import datasets
from search.driver import resume_checks, sweep
from search.run import main, parser
from search.spec import flags
from search.spec.config import SweepConfig
from search.spec.flags import minutes
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep
from tests.support import ROOT, missing


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


def test_a_dry_run_says_what_lambda_and_the_losses_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gelu_net.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10))"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["--dataset", "digits", "--classifier", "gelu_net:net", "--dry-run"]) == 0
    shown, notes = capsys.readouterr()
    off, limits, verdict = notes.splitlines()
    assert "no fault" in verdict
    assert yaml.safe_load(shown)["trial"]["classifier"]["factory"] == "gelu_net:net"
    assert not missing(["note: ", "bn_weight", "--set bn_weight=0"], off)
    assert not missing(["note: ", "last_layer", "2 limits", "GELU", "3.weight, 3.bias"], limits)
    assert main(["--dataset", "digits", "--classifier", "gelu_net:net", "--objective", "loss/bn", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert not missing(["objective loss/bn", "BatchNorm", "--objective"], error) and error.count("\n") == 1


def test_a_dry_run_shows_the_places_without_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--storage", "shared", "--study-url", "postgresql://me:word@db/x", "--tracking-uri", "http://me:word@host:5000"]
    assert main([*options, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["places"] == {
        "storage": str(tmp_path / "shared"),
        "study_url": "postgresql+psycopg://me@db/x",
        "tracking_uri": "http://me@host:5000",
    }
    assert "word" not in shown


def test_a_dry_run_tries_the_place_of_the_files_and_writes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("a file in the way")
    assert main(["--storage", str(tmp_path / "files"), "--dry-run"]) == 0
    assert re.fullmatch("dry run of sweep .*no fault.*\n", capsys.readouterr().err)
    assert main(["--storage", str(tmp_path / "notes" / "files"), "--dry-run"]) == 2
    assert not missing(["--storage", str(tmp_path / "notes")], capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]


def test_a_dry_run_shows_the_budgets_and_both_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--objective", "ssim/coverage,kkt/rho", "--max-steps", "9000", "--patience", "5", "--dry-run"]) == 0
    output = capsys.readouterr()
    assert output.err.startswith("note: ") and "scheduler none" in output.err and output.err.count("\n") == 2
    shown = yaml.safe_load(output.out)
    assert (shown["max_steps"], shown["patience"], shown["scheduler"]["name"]) == (9000, 5, "none")
    assert shown["second_objective"] == {"metric": "kkt/rho", "direction": "min"}


def test_the_users_classifier_is_named_by_absolute_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags_of_classifier = ["--classifier", "nets:net", "--weights", "net.pt", "--card", "about.yaml"]
    assert flags.settings(parser().parse_args(flags_of_classifier)) == {
        "trial.classifier.factory": "nets:net",
        "trial.classifier.weights": str(tmp_path / "net.pt"),
        "trial.classifier.card": str(tmp_path / "about.yaml"),
    }
    assert main([*flags_of_classifier, "--dry-run"]) == 2
    assert "net.pt: " in capsys.readouterr().err
    assert main(["--classifier", "conv", "--dry-run"]) == 0
    assert SweepConfig.parse(yaml.safe_load(capsys.readouterr().out), "shown").trial.classifier.name == "conv"


def test_a_factory_is_found_in_the_current_folder(tmp_path: Path) -> None:
    """The same rule as that of `python -m`; the command gets as far as the network's shape."""
    (tmp_path / "nets.py").write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 9))")
    command = [sys.executable, str(ROOT / "search" / "run.py"), "--classifier", "nets:net"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(r"^error: .*nets:net.*\[2, 9\].*\[2, 10\]", done.stderr, re.MULTILINE)


def test_what_a_dry_run_prints_can_be_run(sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(sweep_file), "--dry-run"]) == 0
    printed = sweep_file.with_name("printed.yaml")
    printed.write_text(capsys.readouterr().out)
    assert main(["--config", str(printed), "--dry-run"]) == 0
    assert capsys.readouterr().out == printed.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "fashion_mnits"], "'fashion_mnits'.*'fashion_mnist'"),
        (["--preset", "papre"], "'papre'.*fashion_mnist.*paper"),
        (["--config", "none.yaml"], "none.yaml: "),
        (["--config", "none.yaml", "--preset", "quick"], "--config and --preset"),
        (["--objective", "sim/coverage"], "--objective: .*'sim/coverage'.*'ssim/coverage'"),
        (["--objective", "ssim/coverage,kkt/rho,tstr/1nn"], "--objective: 3 metrics"),
        (["--objective", "ssim/coverage,kkt/rh"], "'kkt/rh'.*'kkt/rho'"),
        (["--objective", "ssim/coverage,kkt/rho", "--scheduler", "median"], "scheduler median .*objectives"),
        (["--objective", "kkt/rho,kkt/rho", "--scheduler", "none"], "both .*kkt/rho"),
        (["--max-steps", "0"], "--max-steps: 0 "),
        (["--patience", "-1"], "--patience: -1 "),
        (["--trial", "3"], "--trial .*--stop.*--trials"),
        (["--set", "resources.cpus_per_trial=2"], "--set resources.cpus_per_trial: .*--cpus-per-trial"),
        (["--set", "scheduler.grace=2"], "--set scheduler.grace: .*--config"),
        (["--set", "nonsense.part=2"], "--set nonsense.part: .*'trial.nonsense'"),
        (["--set", "lrr=1"], "'trial.lrr'.*'lr'"),
        (["--set", "lr=-1"], "--set lr: -1 "),
        (["--set", "lr=fast"], "--set lr: 'fast'.*number"),
        (["--set", "lr"], "KEY=VALUE"),
        (["--steps", "0"], "--steps: 0 "),
        (["--trials", "-3"], "--trials: -3 "),
        (["--name", "a/b"], "--name: 'a/b'"),
        (["--cpus-per-trial", "500"], "--cpus-per-trial 500: "),
        (["--gpus-per-trial", "64"], "--gpus-per-trial 64: "),
        (["--keep", "0"], "--keep: 0 "),
        (["--retries", "-1"], "--retries: -1 "),
        (["--concurrency", "9999"], "--concurrency 9999: "),
        (["--pack", "4"], "--pack: pack 4: "),
        (["--address", "10.0.0.1"], "--address 10.0.0.1: .*HOST:PORT"),
        (["--address", "ray://a:1"], "--address ray://a:1: .*Ray client"),
        (["--address", "127.0.0.1:1", "--trials", "1"], "every node .*--storage"),
        (["--address", "127.0.0.1:1", "--trials", "1", "--storage", "x"], "--address 127.0.0.1:1: "),
        (["--storage", "nosuch://x/y"], "--storage nosuch://x/y: "),
        (["--storage", "/proc/none"], "/proc/none/fashion_mnist-quick: .*written"),
        (["--study-url", "mysql://me:word@a/b"], "--study-url mysql://me@a/b: .*postgresql://"),
        (["--tracking-uri", "localhost"], "--tracking-uri localhost: .*http://"),
        (["--tracking-uri", "http://127.0.0.1:1"], "MLflow store http://127.0.0.1:1: "),
        (["--data-root", "nowhere"], "FashionMNIST .*nowhere"),
        (["--set", "classifier.name=vit"], "classifier 'vit'"),
        (["--classifier", "nets:net"], "module 'nets'"),
        (["--classifier", ":net"], "--classifier: ':net' .*module:factory"),
        (["--weights", "none.pt"], "none.pt: "),
        (["--card", "none.yaml"], "card .*weights"),
        (["--set", "dataset.per_class=51"], "--data-root"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert re.search(message, output.err), output.err
    assert not (tmp_path / "mlflow.db").exists()
    assert not list(tmp_path.rglob("sweep.yaml"))  # the mended command is not "other settings"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "bayes"], "--sampler: .*'bayes'"),
        (["--trials", "many"], "--trials: 'many'"),
        (["--unknown"], "--unknown .*--help"),
        (["--device", "cuda"], "--device .*--set device=VALUE"),
        (["--check", ""], "--check: .*empty"),
        (["--status="], "--status: .*empty"),
        (["--time-budget", "soon"], "--time-budget: 'soon': .*90s"),
        (["--pictures", "sixle"], "--pictures: 'sixle': .*auto, kitty, iterm, sixel, none"),
    ],
)
def test_what_the_parser_refuses_is_one_line_and_exit_code_2_too(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and re.match(f"error: {message}", error) and error.count("\n") == 1, error


def test_the_same_name_with_other_settings_shows_the_difference(sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SweepConfig.parse(tiny_sweep(), "tests")
    record = sweep.sweep_folder("tiny") / "sweep.yaml"
    record.parent.mkdir(parents=True)
    record.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    before = record.read_text()
    assert main(["--config", str(sweep_file), "--seed", "5", "--set", "beta=3"]) == 2
    error = capsys.readouterr().err
    assert "sweep 'tiny' " in error
    assert re.search(r"\bseed: 1 .*\b5\b", error) and re.search(r"\btrial\.beta: 0\.01 .*\b3\.0\b", error), error
    assert record.read_text() == before


def test_a_damaged_record_is_named(sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = sweep.sweep_folder("tiny") / "sweep.yaml"
    record.parent.mkdir(parents=True)
    record.write_text("trial: [")
    assert main(["--config", str(sweep_file)]) == 2
    assert re.search(r"sweep\.yaml: .*YAML", capsys.readouterr().err)


def test_budgets_may_grow_and_are_kept_when_nothing_is_said() -> None:
    record = SweepConfig.parse(tiny_sweep(trials=9, time_budget=5.0), "tests")
    path = sweep.sweep_folder("tiny") / "sweep.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(record.model_dump(mode="json", exclude_none=True)))
    asked = SweepConfig.parse(tiny_sweep(trials=20), "tests")
    assert resume_checks.settle_with_record(asked, set()).trials == 9
    assert resume_checks.settle_with_record(asked, {"trials"}).trials == 20
    assert resume_checks.settle_with_record(asked, {"trials"}).time_budget == 5.0
    asked = SweepConfig.parse(tiny_sweep(max_steps=99, patience=4, retries=7, keep=1), "tests")
    settled = resume_checks.settle_with_record(asked, {"patience", "keep"})
    assert (settled.trials, settled.max_steps, settled.patience, settled.retries, settled.keep) == (9, None, 4, 2, 1)


def test_the_order_of_the_space_is_the_records() -> None:
    record = SweepConfig.parse(tiny_sweep(), "tests")
    path = sweep.sweep_folder("tiny") / "sweep.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(record.model_dump(mode="json", exclude_none=True), sort_keys=False))
    turned = SweepConfig.parse(tiny_sweep(space=dict(reversed(record.model_dump(mode="json")["space"].items()))), "tests")
    assert list(turned.space) != list(record.space)
    assert list(resume_checks.settle_with_record(turned, set()).space) == list(record.space)


@pytest.mark.parametrize(
    ("budget", "flag"),
    [
        ({"time_budget": 1.0}, "--time-budget"),
        ({"max_steps": 15}, "--max-steps"),
        ({"patience": 1}, "--patience"),
    ],
)
def test_failed_trials_do_not_run_again_when_a_budget_would_end_them(
    budget: dict[str, float], flag: str, sweep_file: Path, capsys: pytest.CaptureFixture[str]
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
    error = capsys.readouterr().err
    assert error.startswith("error: --retry-failed: ") and f" {flag}" in error
    assert Ledger(config, folder).entry(2).state == "failed"
    more = config.model_copy(update={key: value * 10 for key, value in budget.items()})
    assert sweep.finished_summary(more, retry_failed=True) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, sweep_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlruns").write_text("a file where a folder must be")
    assert main(["--config", str(sweep_file)]) == 2
    assert re.search("mlruns/sweeps/tiny: .*written", capsys.readouterr().err)


def test_a_missing_data_file_is_named(
    tmp_path: Path, sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets, "ASSETS", tmp_path / "assets")
    assert main(["--config", str(sweep_file)]) == 2
    assert "fashion_mnist.npz.xz: " in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("90s", 1.5), ("45m", 45), ("8h", 480), ("30", 30), ("1.5h", 90)])
def test_time_budgets_are_minutes_unless_they_say_otherwise(text: str, expected: float) -> None:
    assert minutes(text) == expected


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
    assert re.search("'tiny'.* python search/run.py", capsys.readouterr().err)
    (sweep.sweep_folder("tiny") / "x").mkdir(parents=True)
    (sweep.sweep_folder("tiny") / "study.db").write_text("")
    assert export(["--sweep", "tinny", "--out", "new"]) == 2
    assert re.search("'tinny'.*'tiny'", capsys.readouterr().err)


def test_repeat_makes_every_setting_a_finalist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "digits", "--trials", "7", "--repeat", "3", "--dry-run", "--json"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["finalists"], config["seeds"], config["keep"], config["scheduler"]["name"]) == (7, 3, 7, "none")


@pytest.mark.parametrize(
    ("repeat_flags", "named"),
    [
        (["1"], ["--repeat 1", "2"]),
        (["3", "--finalists", "2"], ["--repeat", "--finalists"]),
        (["3", "--seeds", "2"], ["--repeat", "--seeds"]),
        (["3", "--scheduler", "asha"], ["--repeat", "--scheduler"]),
    ],
)
def test_a_repeat_that_cannot_be_is_refused(
    repeat_flags: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dataset", "digits", "--trials", "7", "--repeat", *repeat_flags, "--dry-run"]) == 2
    line = capsys.readouterr().err
    assert not missing(named, line) and line.count("\n") == 1
