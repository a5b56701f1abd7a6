"""A sweep that is interrupted at one moment after the other, and moved on its way: the same command continues each time."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.stores import lay_down_store
from tests.support.workplace import Workplace

pytestmark = pytest.mark.sweep

MOMENTS: Final = {
    "training of the classifier": ("search.driver.preflight", "_TrainingBar", "announce"),
    "start of Ray": ("search.driver.ray_runtime", None, "start"),
    "start of Tune": ("ray.tune", "Tuner", "fit"),
    "end of the run": ("search.driver.sweep", "SweepRun", "_finish"),
    "registration": ("search.tracking.registry", None, "_add"),
    "report": ("search.driver.finalize", None, "begin_report"),
}
"""Each with the function that is called at it."""


def interrupt(moment: str, number: int) -> None:
    """Make this process send itself the signal when it comes to the moment."""
    module, owner, name = MOMENTS[moment]
    owner_object = importlib.import_module(module)
    owner_object = getattr(owner_object, owner) if owner else owner_object
    original = getattr(owner_object, name)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), number)
        return original(*arguments, **named)

    setattr(owner_object, name, interrupted)


@pytest.mark.long
def test_the_last_line_says_that_the_same_command_continues_and_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking._tracking_service import utils

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "before").mkdir()
    lay_down_store(tmp_path / "before")
    workplace = Workplace(tmp_path / "before")
    command = ("--config", workplace.file("moments", trials=2, scheduler={"name": "none"}), "--concurrency", "1")
    for moment, number in zip(MOMENTS, itertools.cycle((signal.SIGINT, signal.SIGTERM)), strict=False):
        if moment == "end of the run":
            leave_after_a_report(workplace, command)
            move(workplace, tmp_path / "after")
            utils._artifact_repos_cache.clear()  # this process may have looked before
        workplace.before = partial(interrupt, moment, number)
        code, output = workplace.run(*command, report=True)
        assert code == 130 and "Traceback" not in output, (moment, output)
        assert output.splitlines()[-1] == "interrupted; the same command continues", (moment, output)  # golden
    workplace.before = None
    code, output = workplace.run(*command, report=True)
    assert code == 0 and "Traceback" not in output and "registered " in output, output
    workplace.check_records_agree("moments", 2)
    assert workplace.run_here("--check", "moments")[0] == 0
    for run in workplace.trials("moments"):
        files = workplace.client().list_artifacts(run.info.run_id, "images")
        assert len([file for file in files if "compressed" not in file.path]) == 4, files
        assert run.info.artifact_uri.startswith(workplace.folder.as_uri())
    code, output = workplace.export("--sweep", "moments", "--out", "exported")
    assert code == 0, output
    assert not (tmp_path / "before").exists()


def leave_after_a_report(workplace: Workplace, command: tuple[str, ...]) -> None:
    workplace.before = None
    process = workplace.start(*command)
    workplace.wait_for(process, "  step ")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 130 and "  continue  python search/run.py --config" in output, output


def move(workplace: Workplace, to: Path) -> None:
    """Rename the project's folder; `--check` says so in a line, and `--repair` mends it."""
    left, workplace.folder = workplace.folder, workplace.folder.rename(to)
    code, output = workplace.run_here("--check", "moments")
    assert code == 1 and output.count("disagree  ") == 1 and f" {left}/" in output and "--repair" in output, output
    code, output = workplace.run_here("--check", "moments", "--repair")
    assert code == 0 and "repaired  " in output, output
