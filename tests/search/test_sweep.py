"""Real sweeps: Ray, MLflow and Optuna as users run them, with small networks on real images."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
import yaml

from search.spec.config import SweepConfig
from search.spec.presets import CONFIGS
from search.study.ledger import Ledger
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.support.workplace import EXPORT, Workplace

pytestmark = pytest.mark.sweep


def test_a_sweep_from_start_to_export(workplace: Workplace) -> None:
    code, output = workplace.run("--config", workplace.file("whole"), "--trials", "5", "--keep", "1", report=True)
    assert code == 0, output
    assert "registered gbc-fashion_mnist version 1 = models:/gbc-fashion_mnist@champion" in output  # golden
    assert "look      mlruns/sweeps/whole/report.html" in output and "note:" not in output  # golden
    assert "sweep whole: 5 trials of 12 steps" in output and "steps/s" in output
    assert "best: trial-000" in output and "python search/ui.py --sweep whole" in output  # golden
    assert "python search/export.py --sweep whole" in output  # golden
    assert "KKT conditions" in output and "(required" not in output
    for metric in ("ssim/coverage", "tstr/1nn"):
        assert re.search(rf"      {metric} 0\.\d+: .*class means .*uniform noise", output), output
    assert "Traceback" not in output and "Warning" not in output
    workplace.check_records_agree("whole", 5)

    # MLflow holds what the design promises.
    (parent,) = workplace.parents("whole")
    assert parent.info.run_name == "whole" and parent.info.status == "FINISHED"
    assert {"version.ray", "data.digest", "classifier.digest", "mlflow.source.git.commit"} <= set(parent.data.tags)
    assert parent.data.params["trial.classifier.hidden"] == str(TINY["classifier"]["hidden"])
    files = {artifact.path for artifact in workplace.client().list_artifacts(parent.info.run_id)}
    assert files == {
        "sweep.yaml",
        "classifier.json",
        "samples.png",
        "evaluation.json",
        "audit.json",
        "verdict.json",
        "generator",
    }
    for run in workplace.trials("whole"):
        assert run.info.run_name == f"trial-{int(run.data.tags['sweep.trial']):04d}"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert {"lr", "batch_size", "tv_weight", "beta", "classifier.hidden", "seed"} <= set(run.data.params)
        assert {"kkt/rho", "kkt/alpha", "ssim/coverage", "tstr/1nn", "time/steps_per_s"} <= set(run.data.metrics)
        assert [a.path for a in workplace.client().list_artifacts(run.info.run_id)] == ["images", "samples.png"]
    folder = workplace.folder / "mlruns" / "sweeps" / "whole"
    left = {path.name for path in folder.iterdir()}
    assert left == {".lock", "study.db", "summary.json", "sweep.yaml", "trials", "report.html"}, left

    # The same command again has nothing to do, and says so.
    code, output = workplace.run("--config", workplace.file("whole"), report=True)
    assert code == 0 and "finished already" in output and "best: trial-000" in output
    workplace.check_records_agree("whole", 5)

    # More trials continue it.
    code, output = workplace.run("--config", workplace.file("whole"), "--trials", "6", "--json")
    assert code == 0, output
    assert json.loads(output[output.index("{\n") :])["trials"] == 6
    workplace.check_records_agree("whole", 6)

    # All records agree; what an export of the best needs is there, and no other checkpoint.
    code, output = workplace.run("--check", "whole")
    assert code == 0 and f"6 trials, {workplace.reports('whole')} reports" in output, output
    best = workplace.status("whole")["best_trial"]
    assert list((folder / "trials").rglob("*.ckpt")) == [folder / "trials" / f"{best:04d}" / "last.ckpt"]

    # The best is exported, once.
    command = [sys.executable, EXPORT, "--sweep", "whole", "--out", "exported", "--json"]
    result = json.loads(subprocess.run(command, cwd=workplace.folder, check=True, capture_output=True, text=True).stdout)
    complete = {t.number: t.value for t in workplace.study("whole") if t.state.name == "COMPLETE"}
    assert result["trial"] == max(complete, key=lambda number: complete[number])
    assert (workplace.folder / "exported" / "samples.png").exists()
    code, output = workplace.export("--sweep", "whole", "--out", "exported")
    assert code == 2 and "exported: exists" in output
    code, output = workplace.export("--sweep", "whole", "--out", "new", "--trial", "77")
    assert code == 2 and "trial 77" in output
    code, output = workplace.export("--sweep", "whole", "--out", "new", "--trial", str((best + 1) % 6))
    assert code == 2 and re.search(rf"trial {(best + 1) % 6} .*\b{best} .*--keep", output), output


def test_a_second_driver_is_refused_and_ctrl_c_stops_the_first_in_good_order(workplace: Workplace) -> None:
    name = "interrupted"
    file = workplace.file(name, trials=2, trial={**TINY, "steps": 24}, scheduler={"name": "none"})
    process = workplace.start("--config", file)
    workplace.wait_for(process, "  step ")
    process.send_signal(signal.SIGSTOP)  # or it may end too soon
    status = workplace.status(name)
    assert status["state"] == "running" and status["driver"]["pid"] == process.pid and status["running"]
    assert workplace.run_here("--check", name)[0] == 0
    code, output = workplace.run_here("--config", file)
    assert code == 2 and re.search(rf"sweep {name!r} .*pid {process.pid}\b", output), output
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130, output
    assert "continue  python search/run.py --config" in output and "Traceback" not in output
    runs = workplace.trials(name)
    assert runs and {run.info.status for run in runs} == {"KILLED"}
    assert workplace.parents(name)[0].info.status == "KILLED"
    assert all(trial.state.name == "RUNNING" for trial in workplace.study(name))
    seen = {run.info.run_id: workplace.steps(run) for run in runs}

    code, output = workplace.run("--config", file, "--concurrency", "1")
    assert code == 0, output
    assert re.search(r"trial 000\d  continues .*\d", output), output
    for run in workplace.trials(name):
        steps = workplace.steps(run)
        assert steps == list(range(3, 25, 3))
        assert steps[: len(seen.get(run.info.run_id, []))] == seen.get(run.info.run_id, [])


def test_trials_that_diverge_are_failures_with_a_reason_and_the_sweep_goes_on(workplace: Workplace) -> None:
    space = {"lr": {"choice": [0.001]}, "tv_weight": {"choice": [0.0, 1e6]}, "alpha_init": {"choice": [-50.0]}}
    trial = {**TINY, "stationarity_weight": 1e6}
    file = workplace.file("diverging", trials=3, space=space, trial=trial)
    code, output = workplace.run("--config", file, "--concurrency", "1")
    runs = workplace.trials("diverging")
    failed = [run for run in runs if run.data.tags["sweep.outcome"] == "failed"]
    assert len(runs) == 3 and failed, output
    for run in failed:
        assert run.info.status == "FAILED" and run.data.tags["sweep.reason"].startswith("diverged: ")
    assert code == (1 if len(failed) == 3 else 0)
    assert f"{len(failed)} failed" in output and "diverged: " in output


@pytest.mark.long
def test_trials_whose_workers_fail_are_retried_and_can_be_run_again(workplace: Workplace) -> None:
    """A factory that kills its worker as long as a file says so; then the same trials go on under the same names."""
    dies = (
        "if Path(__file__).with_name('broken').exists() and 'worker' in sys.argv[0]:\n"
        "    os.kill(os.getpid(), 9)  # as the kernel does when there is no memory left"
    )
    classifier = workplace.factory("flaky", "import os\nimport sys\nfrom pathlib import Path", dies)
    file = workplace.file("flaky", trials=1, trial={**TINY, "classifier": classifier}, scheduler={"name": "none"})
    (workplace.folder / "broken").touch()
    code, output = workplace.run("--config", file, "--retries", "1")
    assert code == 1, output
    line = next(line for line in output.splitlines() if line.split()[:2] == ["failed", "0000"])
    assert "mlruns/sweeps/flaky/trials/0000/error.log" in line and "Traceback" not in output
    before = workplace.trials("flaky")
    for run in before:
        assert (run.data.tags["sweep.outcome"], run.data.tags["sweep.retries"]) == ("failed", "1")
        assert run.data.tags["sweep.reason"] in line and "worker process died" in line
        assert (workplace.folder / run.data.tags["sweep.log"]).read_text().count("The actor died unexpectedly") == 2
    assert [trial.state.name for trial in workplace.study("flaky")] == ["FAIL"]
    assert workplace.run_here("--check", "flaky")[0] == 0

    (workplace.folder / "broken").unlink()
    code, output = workplace.run("--config", file, "--retry-failed")
    assert code == 0, output
    after = workplace.trials("flaky")
    assert [run.info.run_id for run in after] == [run.info.run_id for run in before]
    for run in after:
        assert run.data.tags["sweep.outcome"] == "complete" and "sweep.reason" not in run.data.tags
    workplace.check_records_agree("flaky", 1)
    code, output = workplace.run_here("--check", "flaky")
    assert code == 0, output
    code, output = workplace.run("--config", file, "--retry-failed")
    assert code == 0 and "finished already" in output


@pytest.mark.long
def test_a_trial_that_hangs_fails_with_the_place_where_it_hung(workplace: Workplace) -> None:
    hangs = "if 'worker' in sys.argv[0]:\n    time.sleep(600)  # a lock that nobody releases"
    classifier = workplace.factory("hanging", "import sys\nimport time", hangs)
    file = workplace.file("hanging", trials=1, trial={**TINY, "classifier": classifier}, scheduler={"name": "none"})
    code, output = workplace.run("--config", file, "--retries", "1", "--hang-limit", "2s")
    assert code == 1, output
    (run,) = workplace.trials("hanging")
    reason, log = run.data.tags["sweep.reason"], "mlruns/sweeps/hanging/trials/0000/error.log"
    assert " 2 s" in reason and run.data.tags["sweep.log"] == log and run.data.tags["sweep.retries"] == "1"
    assert re.search(rf"failed    0000  {re.escape(reason)}  .*{log}", output) and "Traceback" not in output
    text = (workplace.folder / log).read_text()
    assert text.count("Timeout (0:00:02)!") == 2 and 'hanging.py", line 8 in net' in text and "The actor died" in text
    assert workplace.run_here("--check", "hanging")[0] == 0


@pytest.mark.long
def test_the_papers_preset_runs_as_it_is(workplace: Workplace) -> None:
    """Few steps; its numbers are logged whatever they are."""
    small = ["classifier.hidden=64", "classifier.steps=200", "width=64", "channels=16"]
    settings = [argument for setting in small for argument in ("--set", setting)]
    code, output = workplace.run("--preset", "paper", "--name", "paper-small", "--trials", "1", "--steps", "8", *settings)
    assert code == 0, output
    for run in workplace.trials("paper-small"):
        assert "loss/bn" not in run.data.metrics and "loss/ce" not in run.data.metrics
        assert 10**-3.5 <= float(run.data.params["lr"]) <= 10**-2.5
        assert {"kkt/rho", "ssim/coverage"} <= set(run.data.metrics)


@pytest.mark.long
def test_a_warm_start_tries_what_another_sweep_found_and_counts_only_its_own(workplace: Workplace) -> None:
    best = lay_down_a_sweep(workplace, "cold")[:-3:-1]
    command = ("--config", workplace.file("warm"), "--warm-start", "cold", "--warm-start-trials", "2", "--concurrency", "1")
    process = workplace.start(*command)
    output = workplace.wait_for(process, "trial 0001  starts")
    assert re.search("warm start: 2 .*sweep cold.*tpe .*12 ", output), output
    workplace.kill_everything(process)
    shutil.rmtree(workplace.folder / "mlruns" / "sweeps" / "cold")  # what was taken was noted
    code, output = workplace.run(*command)
    assert code == 0, output
    workplace.check_records_agree("warm", 4)
    study = workplace.study("warm")
    assert [trial.params for trial in study[:2]] == best
    assert [trial.user_attrs.get("warm_start") for trial in study] == ["cold/trial-0011", "cold/trial-0010", None, None]
    files = {artifact.path for artifact in workplace.client().list_artifacts(workplace.parents("warm")[0].info.run_id)}
    assert "warm_start.json" in files


def lay_down_a_sweep(workplace: Workplace, name: str) -> list[dict[str, Any]]:
    """The record and the study of a sweep of twelve full trials, each better than the one before; gives their settings."""
    config = SweepConfig.parse(tiny_sweep(name=name, seed=3), "test")
    folder = workplace.folder / "mlruns" / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    ledger = Ledger(config, folder)
    for number in range(12):
        ledger.ask()
        ledger.record(number, 12, number / 100, stop=False)
        ledger.tell(number, "complete")
    settings = [trial.params for trial in ledger.entries()]
    ledger.close()
    return settings


@pytest.mark.long
def test_a_sweep_over_pixels_with_free_multipliers_concludes(workplace: Workplace) -> None:
    """There is no generator to export and register: the sweep says its best and writes its report all the same."""
    space = yaml.safe_load((CONFIGS / "fashion_mnist-reconstruction.yaml").read_text())["space"]
    trial = {
        "dataset": {"per_class": 5}, "generator": "pixels", "multipliers": "free", "reconstruction_weight": 1.0,
        "classifier": {"name": "mlp", "hidden": 12, "steps": 30, "first_scale": 1e-4}, "eval_per_class": 6, "steps": 6,
        "report_every": 3, "stationarity_weight": 0.0, "beta": 0.0, "weight_decay": 0.0, "device": "cpu",
    }  # fmt: skip
    file = workplace.file("pixels", trial=trial, space=space)
    code, output = workplace.run("--config", file, "--trials", "2", "--concurrency", "1", report=True)
    assert code == 0, output
    assert "best: trial-000" in output and "registered" not in output and "search/export.py" not in output
    assert "note:" not in output and "Traceback" not in output
    assert "look      mlruns/sweeps/pixels/report.html" in output
    assert (workplace.folder / "mlruns" / "sweeps" / "pixels" / "report.html").exists()
    workplace.check_records_agree("pixels", 2)
    assert all("loss/reconstruction" in run.data.metrics for run in workplace.trials("pixels"))
