from __future__ import annotations

import io

import pytest
from rich.console import Console

from records.format import duration
from search.driver.progress import ProgressDisplay, expected_steps
from search.spec.config import SweepConfig
from tests.search.conftest import tiny_sweep


def plain_console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=False, width=200), out


def test_without_a_terminal_there_is_a_plain_line_for_each_event(config: SweepConfig) -> None:
    console, out = plain_console()
    with ProgressDisplay(config, console) as progress:
        progress.add_earlier(0, "complete", 12, None)
        progress.started(1, 0)
        progress.reported(1, 3, {"kkt/rho": 0.987, "ssim/coverage": 0.25})
        progress.ended(1, "failed", "diverged: loss/tv")
        progress.started(2, 6)
    lines = out.getvalue().splitlines()
    assert lines[0] == "trial 0001  starts"
    assert lines[1].startswith("trial 0001  step 3/12  ρ 0.987  α –  SSIM coverage 0.250")
    assert lines[2].startswith("trial 0001  failed: diverged: loss/tv  (2 of 4 ")
    assert lines[3].startswith("trial 0002  continues") and lines[3].endswith(" 6")
    assert "\x1b" not in out.getvalue()


def test_a_terminal_shows_a_table_with_the_overall_progress(config: SweepConfig) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=160)
    with ProgressDisplay(config, console) as progress:
        for number in range(20):
            progress.started(number, 0)
            progress.reported(number, 3, {"ssim/coverage": number / 100})
            if number < 18:
                progress.ended(number, "stopped", None)
    text = out.getvalue()
    for text_part in ("trial", "SSIM coverage", "steps/s", "earlier trials", "running", "stopped", "of 4 trials"):
        assert text_part in text


@pytest.mark.parametrize("terminal", [False, True])
def test_what_failed_is_shown_letter_for_letter(config: SweepConfig, terminal: bool) -> None:
    """Brackets of an error are no style."""
    out = io.StringIO()
    with ProgressDisplay(config, Console(file=out, force_terminal=terminal, width=160, markup=False)) as progress:
        progress.ended(0, "failed", "KeyError: [bold]x[/y]")
        progress.note("MLflow's store refuses: [/x]")
    assert "KeyError: [bold]x[/y]" in out.getvalue() and "refuses: [/x]" in out.getvalue()


def test_the_objective_has_a_column_of_its_own() -> None:
    config = SweepConfig.parse(tiny_sweep(objective={"metric": "loss/bn", "direction": "min"}), "test")
    console, out = plain_console()
    with ProgressDisplay(config, console) as progress:
        progress.reported(0, 3, {"loss/bn": 0.125})
    assert "loss/bn 0.125" in out.getvalue()


def test_both_objectives_have_a_column() -> None:
    two = {"objective": {"metric": "loss/bn", "direction": "min"}, "second_objective": {"metric": "free/score"}}
    config = SweepConfig.parse(tiny_sweep(**two, scheduler={"name": "none"}), "test")
    console, out = plain_console()
    with ProgressDisplay(config, console) as progress:
        progress.reported(0, 3, {"loss/bn": 0.125, "free/score": 0.5})
    assert "loss/bn 0.125  free/score 0.500" in out.getvalue()


def test_time_left_knows_the_step_budget() -> None:
    left = {}
    for budget in (None, 4):
        progress = ProgressDisplay(SweepConfig.parse(tiny_sweep(max_steps=budget), "test"), plain_console()[0])
        progress.started(0, 0)
        progress.reported(0, 3, {})
        left[budget] = progress.seconds_left()
    assert 0 < left[4] < left[None]  # type: ignore[operator]


def test_time_left_counts_the_time_that_earlier_runs_spent() -> None:
    config = SweepConfig.parse(tiny_sweep(time_budget=2.0, trials=1000), "test")
    progress = ProgressDisplay(config, plain_console()[0], spent=90.0)
    progress._began -= 10  # as after ten seconds
    progress.started(0, 0)
    progress.reported(0, 3, {})
    assert progress.seconds_left() == pytest.approx(20, abs=1)  # what the test itself takes
    progress.config = config.model_copy(update={"time_budget": 3.0})  # as finalists are given time on top
    assert progress.seconds_left() == pytest.approx(80, abs=1)


def test_time_left_shrinks_as_trials_end(config: SweepConfig) -> None:
    console, _ = plain_console()
    progress = ProgressDisplay(config, console)
    assert progress.seconds_left() is None
    progress.started(0, 0)
    progress.reported(0, 3, {})
    early = progress.seconds_left()
    for number in range(4):
        progress.started(number, 0)
        progress.reported(number, 12, {})
        progress.ended(number, "complete", None)
    late = progress.seconds_left()
    assert early is not None and late == 0 and early > 0


def test_expected_steps_lie_between_the_first_rung_and_the_horizon(config: SweepConfig) -> None:
    assert config.first_rung <= expected_steps(config) <= config.trial.steps
    never = SweepConfig.parse(tiny_sweep(scheduler={"name": "none"}), "test")
    assert expected_steps(never) == 12
    median = SweepConfig.parse(tiny_sweep(scheduler={"name": "median", "grace": 3}), "test")
    assert median.first_rung < expected_steps(median) < 12
    hyperband = SweepConfig.parse(tiny_sweep(scheduler={"name": "hyperband", "reduction_factor": 2, "grace": 3}), "test")
    assert expected_steps(config) < expected_steps(hyperband) < 12  # some of its trials may stay longer


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (720, "12 min"), (12_000, "3 h 20 min")])
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
