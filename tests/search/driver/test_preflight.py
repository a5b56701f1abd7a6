"""What is measured before a sweep."""

from __future__ import annotations

from gbc.training.cuda_graph import STEPS_BEFORE_REPLAY
from search.driver.preflight import largest_trial, probe_settings
from search.spec.config import SweepConfig


def test_the_measured_trial_has_all_that_takes_memory(config: SweepConfig) -> None:
    """Losses that start late begin a new CUDA graph, and no graph is made in the first steps."""
    late = config.model_copy(update={"trial": config.trial.updated({"kkt_from": 0.5}, "test")})
    probe = probe_settings(late)
    assert probe.kkt_from == 0 and probe.steps > STEPS_BEFORE_REPLAY and probe.report_every == probe.steps
    assert probe.batch_size == largest_trial(config).batch_size
