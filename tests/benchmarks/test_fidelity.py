"""The replay of recorded curves, and the order of rungs with two objectives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.policy.early_stopping import Decision
from tests.benchmarks.fidelity import Curves, Replay, Surface, best_by_budget, results_file, settings, verdict
from tests.benchmarks.fidelity_fronts import hypervolume, volume
from tests.benchmarks.record_curves import METRICS, REPORTS, STEPS, TABLE


@pytest.fixture(scope="module")
def curves() -> Curves:
    return Curves("wide")


def test_the_recorded_table_holds_whole_curves_of_settings_inside_the_space(curves: Curves) -> None:
    assert curves.points.min() >= -1e-9 and curves.points.max() <= 1 + 1e-9
    for metric in METRICS:
        assert curves.values[metric].shape == (len(curves.points), len(REPORTS))


def test_the_table_is_large_enough_to_guess_a_trial_from_and_small_enough_to_keep(curves: Curves) -> None:
    trials = len(curves.points) + len(Curves("tuned").points)
    assert trials >= 300 and TABLE.stat().st_size < 100_000
    assert curves.surfaces["ssim/coverage"].explained > 0.5 > curves.nearest_explains("ssim/coverage")


def test_results_of_another_table_are_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results_file(tmp_path, "wide", METRICS[0], "24")
    assert before.parent == tmp_path and before == results_file(tmp_path, "wide", METRICS[0], "24")
    (tmp_path / "curves.npz").write_bytes(TABLE.read_bytes() + b"0")
    monkeypatch.setattr("tests.benchmarks.fidelity.TABLE", tmp_path / "curves.npz")
    assert results_file(tmp_path, "wide", METRICS[0], "24") != before


def test_the_verdict_names_the_best_other_pair_in_standard_errors() -> None:
    differences = {
        ("tpe", "asha"): np.zeros(4),
        ("gp", "asha"): np.array([0.1, 0.3, 0.1, 0.3]),
        ("random", "none"): -np.ones(4),
    }
    assert "gp with asha" in verdict(differences) and "3.5 standard errors ahead of tpe with asha" in verdict(differences)
    del differences["gp", "asha"]
    differences["random", "none"] = np.array([-0.1, -0.3, -0.1, -0.3])
    assert "3.5 standard errors behind tpe with asha" in verdict(differences)


def test_a_surface_finds_a_quadratic_and_leaves_the_luck() -> None:
    rng = np.random.default_rng(0)
    points, luck = rng.random((200, 3)), 0.01 * rng.standard_normal((200, 2))
    truth = np.stack([points[:, 0] ** 2, points[:, 1] * points[:, 2]], axis=1)
    surface = Surface(points, truth + luck)
    assert surface.explained > 0.99
    np.testing.assert_allclose(surface.at(points[0]), truth[0], atol=0.02)  # two standard deviations of the luck
    np.testing.assert_allclose(surface.residuals, luck, atol=0.02)


def test_without_early_stopping_the_budget_is_full_trials(curves: Curves) -> None:
    config = settings(curves, "random", {"name": "none"}, 0, METRICS[0])
    replay = Replay(curves, config, lambda *_: Decision.KEEP)
    trials = replay.run(6 * STEPS)
    assert 3 <= len(replay.full) <= 6 and len(trials) <= 11
    assert all(full.values != full.expected for full in replay.full)


def test_a_replay_is_a_function_of_its_seed(curves: Curves) -> None:
    arguments = ("tpe", {"name": "hyperband", "grace": 24})
    once, again, other = (best_by_budget(curves, *arguments, seed, METRICS[0]) for seed in (1, 1, 2))
    assert once == again != other and once == sorted(once)  # the best never gets worse


def test_the_hypervolume_and_what_one_point_has_of_it() -> None:
    front = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert hypervolume(front) == 6.0 and hypervolume([*front, (1.0, 1.0)]) == 6.0
    assert hypervolume(front, (1.0, 1.0)) == 1.0 and volume(front, (2.0, 2.0)) == 1.0
