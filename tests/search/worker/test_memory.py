"""A GPU that is too small for all its trials at once: real Ray and real workers, which are told that they have no room."""

from __future__ import annotations

from functools import partial

import pytest

from search.driver.resources import Machine
from tests.conftest import TINY
from tests.support.stores import lay_down_store
from tests.support.workplace import Workplace

pytestmark = pytest.mark.sweep

ASKS_FOR_ROOM = """
in_worker = ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0) if in_worker else 9
if share < {enough}:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""


def have_a_gpu() -> None:
    """Ray takes the machine for one with two CPUs and a GPU; trials compute on the CPU."""
    Machine.local = partial(Machine.local, cpus=2, gpus=1)  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("sweeps")
    lay_down_store(folder)
    return Workplace(folder, before=have_a_gpu)


@pytest.mark.parametrize(("name", "enough", "trials", "outcome"), [("crowded", 1, 2, "complete"), ("hopeless", 2, 1, "failed")])
@pytest.mark.long
def test_a_trial_without_room_goes_on_with_fewer_neighbours(
    workplace: Workplace, name: str, enough: int, trials: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = workplace.factory(name, "import ray\nimport torch", ASKS_FOR_ROOM.format(enough=enough))
    trial = {**TINY, "classifier": classifier}
    resources = {"gpus_per_trial": 0.5, "concurrency": 2}
    file = workplace.file(name, trials=trials, trial=trial, scheduler={"name": "none"}, resources=resources)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, output = workplace.run("--config", file)
    assert code == (0 if outcome == "complete" else 1), output
    workplace.check_records_agree(name, trials)
    assert {run.data.tags["sweep.outcome"] for run in workplace.trials(name)} == {outcome}
    assert {trial.user_attrs["gpus"] for trial in workplace.study(name)} == {1.0}
    assert output.count("CUDA out of memory; ") == trials, output
    if outcome == "failed":
        assert all(run.data.tags["sweep.reason"].startswith("CUDA out of memory, ") for run in workplace.trials(name))
