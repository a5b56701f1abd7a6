"""Behaviour and wordings of Ray and Ray Tune without documentation, on which the driver relies (docs/internals.md)."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest
import ray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from search.driver.processes import _DAEMONS
from search.driver.ray_runtime import UNUSED
from search.driver.tune_adapter import FAILURE, NODE_DEATH, WORKER_DEATH

PACKAGE = Path(ray.__file__).parent


def test_ray_words_a_failure_as_the_adapter_reads_it(tmp_path: Path) -> None:
    """`test_ray_runtime.py` kills a real node; here are the words alone."""
    binaries = (PACKAGE / "core/src/ray/gcs/gcs_server").read_bytes() + (PACKAGE / "_raylet.so").read_bytes()
    assert all(message.encode() in binaries for message in (*NODE_DEATH, WORKER_DEATH))


def test_tune_appends_each_failure_to_the_error_file(tmp_path: Path) -> None:
    source = inspect.getsource(Trial.handle_error)
    assert f'"{FAILURE}' in source and 'open(self.error_file, "a+")' in source


def test_a_trial_may_be_given_a_retry_while_it_runs() -> None:
    assert "self.run_metadata.num_failures <= self.max_failures" in inspect.getsource(Trial.should_recover)


def test_tune_tells_the_searcher_before_the_callback_that_a_trial_ended() -> None:
    for method in (TuneController.stop_trial, TuneController._process_trial_failure):
        source = inspect.getsource(method)
        callback = max(source.find("_callbacks.on_trial_complete"), source.find("_callbacks.on_trial_error"))
        assert 0 < source.rindex("_search_alg.on_trial_complete") < callback


def test_tune_asks_the_scheduler_about_reports_alone_and_does_as_it_says() -> None:
    """Not about the end of a trial, which comes as a copy of its last result and has no new message."""
    source = inspect.getsource(TuneController._process_trial_result)
    assert source.index("trial.should_stop(flat_result)") < source.index("self._scheduler_alg.on_trial_result(")
    assert "result = trial.last_result\n            result.update(done=True)" in source
    assert "self._queue_decision(trial, decision)" in source


def test_tune_stops_in_good_order_when_it_gets_sigusr1() -> None:
    spec = importlib.util.find_spec("ray.tune.tune")
    assert spec is not None and spec.origin is not None
    assert "signal.signal(signal.SIGUSR1, signal_interrupt_tune_run)" in Path(spec.origin).read_text()


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("tune/experimental/output.py", '"RAY_AIR_NEW_OUTPUT"'),
        ("_private/accelerators/accelerator.py", '"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"'),
        ("tune/utils/callback.py", '"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"'),
        ("tune/execution/tune_controller.py", '"TUNE_DISABLE_STRICT_METRIC_CHECKING"'),
        ("tune/execution/tune_controller.py", '"TUNE_GLOBAL_CHECKPOINT_S"'),
        ("_private/worker.py", "functools.partial(print_to_stdstream, "),
    ],
)
def test_ray_still_reads_what_a_run_sets(module: str, text: str) -> None:
    """The environment, and the function that `search/driver/ray_runtime.py` silences."""
    assert text in (PACKAGE / module).read_text()


def test_the_raylet_knows_the_setting_that_keeps_it_from_starting_spare_workers() -> None:
    assert b"prestart_worker_first_driver" in (PACKAGE / "core" / "src" / "ray" / "raylet" / "raylet").read_bytes()


def test_ray_has_what_a_local_start_leaves_out() -> None:
    """Private methods: a version of Ray that renames one would start the process again, and nobody would see it."""
    source = (PACKAGE / "_private" / "node.py").read_text()
    assert all(f"def {method}(" in source and f"self.{method}(" in source for method in UNUSED)


def test_rays_daemons_and_sessions_have_the_names_that_are_looked_for() -> None:
    assert {path.name for path in (PACKAGE / "core" / "src" / "ray").glob("*/*") if path.name in _DAEMONS} == set(_DAEMONS)
    assert 'f"session_{date_str}_{os.getpid()}"' in (PACKAGE / "_private" / "node.py").read_text()
