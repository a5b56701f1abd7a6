"""Sweeps run by the command line, as users run them, and what they leave behind."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import psutil
import yaml
from mlflow import MlflowClient

from search import export
from search.run import main
from tests.search.conftest import tiny_sweep
from tests.support import ROOT
from tests.support.drivers import Driver

EXPORT = str(ROOT / "search" / "export.py")


class Workplace:
    """A folder in which sweeps are run by the command line."""

    def __init__(
        self,
        folder: Path,
        before: Callable[[], None] | None = None,
        dataset: str = "fashion_mnist",
        *,
        fresh_workers: bool = False,
    ) -> None:
        """`before` is called first in each driver; the sweeps are of `dataset`; see `Driver` for `fresh_workers`."""
        self.folder, self.before, self.dataset, self.fresh_workers = folder, before, dataset, fresh_workers

    def file(self, name: str, **changes: Any) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tiny_sweep(name=name, **changes)))
        return path.name

    def factory(self, name: str, imports: str, before: str) -> dict[str, Any]:
        """A network of the user's own, in a file; `before` is what its factory does first. Gives the classifier's settings."""
        text = f"{imports}\nfrom torch import nn\n\n\ndef net():\n{indent(before, '    ')}\n"
        text += "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))\n"
        (self.folder / f"{name}.py").write_text(text)
        return {"factory": f"{name}:net", "steps": 60, "lr": 0.1}

    def start(self, *arguments: str, report: bool = False) -> Driver:
        arguments = arguments if report else (*arguments, "--no-report")  # what follows a sweep takes longer than a tiny one
        return Driver("run", arguments, self.folder, self.before, fresh_workers=self.fresh_workers)

    def run(self, *arguments: str, timeout: float = 240, report: bool = False) -> tuple[int, str]:
        process = self.start(*arguments, report=report)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def run_here(self, *arguments: str) -> tuple[int, str]:
        """Run the command in this process; a command that starts no sweep need not wait for a process of its own."""
        return self._here(main, arguments)

    def export(self, *arguments: str) -> tuple[int, str]:
        return self._here(export.main, arguments)

    def _here(self, command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> tuple[int, str]:
        output = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return command(arguments), output.getvalue()

    def wait_for(self, process: Driver, text: str) -> str:
        seen = ""
        assert process.stdout is not None
        for line in process.stdout:
            seen += line
            if text in line:
                return seen
        raise AssertionError(f"{text!r} never came:\n{seen}")

    def kill_everything(self, process: Driver) -> None:
        """kill -9 of the driver and all of Ray."""
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(30)
        psutil.wait_procs(family, timeout=30)

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def trials(self, name: str) -> list[Any]:
        client = self.client()
        experiment = client.get_experiment_by_name(f"gbc-{self.dataset}")
        query = f"tags.`sweep.name` = '{name}' and tags.`sweep.role` = 'trial'"
        runs = client.search_runs([experiment.experiment_id], query)
        return sorted(runs, key=lambda run: int(run.data.tags["sweep.trial"]))

    def parents(self, name: str) -> list[Any]:
        client = self.client()
        experiment = client.get_experiment_by_name(f"gbc-{self.dataset}")
        return list(
            client.search_runs([experiment.experiment_id], f"tags.`sweep.name` = '{name}' and tags.`sweep.role` = 'sweep'")
        )

    def steps(self, run: Any, metric: str = "loss/total") -> list[int]:
        return [point.step for point in self.client().get_metric_history(run.info.run_id, metric)]

    def study(self, name: str) -> list[Any]:
        import optuna

        storage = optuna.storages.RDBStorage(f"sqlite:///{self.folder / 'mlruns' / 'sweeps' / name / 'study.db'}")
        trials = optuna.load_study(study_name=name, storage=storage).trials
        storage.remove_session()
        storage.engine.dispose()
        return trials

    def reports(self, name: str) -> int:
        return sum(len(trial.intermediate_values) for trial in self.study(name))

    def status(self, name: str) -> dict[str, Any]:
        code, output = self.run_here("--status", name, "--json")
        assert code == 0, output
        status: dict[str, Any] = json.loads(output)
        return status

    def check_records_agree(self, name: str, trials: int) -> None:
        """One run and one Optuna trial each, strictly increasing steps without a gap, the same values in both."""
        runs, study = self.trials(name), self.study(name)
        assert [int(run.data.tags["sweep.trial"]) for run in runs] == list(range(trials))
        assert [trial.number for trial in study] == list(range(trials))
        assert len(self.parents(name)) == 1
        states = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
        for run, trial in zip(runs, study, strict=True):
            assert run.info.status in ("FINISHED", "FAILED")
            assert states[run.data.tags["sweep.outcome"]] == trial.state.name
            steps, every = self.steps(run), int(run.data.params["report_every"])
            assert steps == [every * (count + 1) for count in range(len(steps))], (run.info.run_name, steps)
            assert sorted(trial.intermediate_values) == steps
            history = self.client().get_metric_history(run.info.run_id, "ssim/coverage")
            assert [point.value for point in history] == [trial.intermediate_values[step] for step in steps]
            if trial.state.name == "COMPLETE":
                assert steps[-1] == int(run.data.params["steps"])
