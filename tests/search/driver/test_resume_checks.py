"""Messages about a sweep that is continued with other settings."""

from __future__ import annotations

from search.driver.resume_checks import SweepMismatch
from tests.search.conftest import resolved_sweep


def test_a_setting_that_is_fixed_is_one_difference() -> None:
    recorded, asked = resolved_sweep(), resolved_sweep(assignments={"lr": 0.01})
    differences = asked.differences(recorded)
    assert {"trial.lr", "space.lr.log10", "first_trials"} <= differences.keys()
    assert str(SweepMismatch("mine", differences)) == (
        "sweep 'mine' was started with other settings (trial.lr: 0.001 on record, 0.01 asked for); choose another --name, or "
        "repeat the command that started it"
    )


def test_other_first_trials_alone_are_named_and_cut() -> None:
    recorded = resolved_sweep()
    asked = recorded.model_copy(update={"first_trials": ()})
    message = str(SweepMismatch("mine", asked.differences(recorded)))
    assert "(first_trials: " in message and "… on record, nothing asked for" in message.replace("[]", "nothing")
    assert len(message) < 300


def test_many_differences_are_counted() -> None:
    differences = {f"trial.setting{number}": (number, None) for number in range(20)}
    message = str(SweepMismatch("mine", differences))
    assert "trial.setting0: nothing on record, 0 asked for; " in message
    assert "; and 12 more); " in message and "setting9" not in message
