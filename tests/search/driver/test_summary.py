from __future__ import annotations

from pathlib import Path

import pytest

from gbc.metrics.scale import Scale
from search.driver.summary import Summary, free_rank, summarise, with_scale
from search.policy.verdict import kkt_verdict
from search.spec.config import SweepConfig
from search.study.ledger import Ledger
from tests.search.conftest import tiny_sweep


def test_a_sweep_says_what_a_search_without_data_would_have_been_worth(config: SweepConfig, tmp_path: Path) -> None:
    ledger = Ledger(config, tmp_path)
    scores = [(0.1, 0.3), (0.3, 0.2), (0.2, 0.4), (0.4, 0.5)]
    for number, (_, value) in enumerate(scores):
        ledger.ask()
        ledger.record(number, 3, value, stop=False)
        ledger.tell(number, "complete")
    ledger.ask()
    ledger.record(4, 3, 0.9, stop=True)
    ledger.tell(4, "stopped")  # at another step: it does not compare
    asked: list[int] = []

    def metrics(number: int) -> dict[str, float]:
        asked.append(number)
        return dict(zip(("free/score", "tstr/1nn"), scores[number], strict=True))

    summary = summarise(config, ledger, metrics, tmp_path)
    # Ranks 1, 3, 2, 4 and 2, 1, 3, 4: 1 − 6 · (1 + 4 + 1 + 0) / (4 · 15).
    assert summary.free_rank == pytest.approx(1 - 36 / 60)
    assert (summary.complete, summary.stopped, asked) == (4, 1, [0, 1, 2, 3])
    assert (summary.finished, summary.ended_by, summary.front) == (True, "trials", [])
    assert summary.verdict == []
    summary.write(tmp_path)
    assert Summary.read(tmp_path) == summary
    without_kkt = summarise(config, ledger, lambda number: {**metrics(number), "kkt/active": 0.0}, tmp_path)
    assert without_kkt.verdict == [kkt_verdict({"kkt/active": 0.0})]


def test_two_objectives_are_summed_up_as_a_front(tmp_path: Path) -> None:
    second = {"metric": "kkt/rho", "direction": "min"}
    config = SweepConfig.parse(tiny_sweep(second_objective=second, scheduler={"name": "none"}), "test")
    ledger = Ledger(config, tmp_path)
    for number, (value, rho) in enumerate([(0.1, 0.5), (0.3, 0.9), (0.1, 0.6)]):
        ledger.ask()
        ledger.record(number, 12, value, stop=False, second=rho)
        ledger.tell(number, "complete")
    summary = summarise(config, ledger, lambda _: {}, tmp_path)
    assert [(point["trial"], point["values"]) for point in summary.front] == [
        (1, {"ssim/coverage": 0.3, "kkt/rho": 0.9}),
        (0, {"ssim/coverage": 0.1, "kkt/rho": 0.5}),
    ]
    assert summary.front[0]["params"] == summary.best_params and summary.best_trial == 1
    assert (summary.finished, summary.ended_by) == (False, None)
    summary.write(tmp_path)
    assert Summary.read(tmp_path) == summary


def test_the_best_is_with_scale_by_its_objective_and_by_tstr(config: SweepConfig, tmp_path: Path) -> None:
    ledger = Ledger(config, tmp_path)
    ledger.ask()
    ledger.record(0, 12, 0.5, stop=False)
    ledger.tell(0, "complete")
    rows = {"uniform noise": (0.1, 0.1), "class means": (0.4, 0.7), "other real images": (0.6, 0.8)}
    scale = Scale({name: dict(zip(("ssim/coverage", "tstr/1nn"), row, strict=True)) for name, row in rows.items()})
    summary = summarise(config, ledger, lambda _: {"ssim/coverage": 0.5, "tstr/1nn": 0.45, "kkt/active": 0.0}, tmp_path)
    scaled = with_scale(summary, config, scale)
    assert [line.partition(":")[0] for line in scaled.verdict[1:]] == ["ssim/coverage 0.500", "tstr/1nn 0.450"]
    assert {metric: position["share"] for metric, position in scaled.scale.items()} == pytest.approx(
        {"ssim/coverage": 0.8, "tstr/1nn": 0.5}
    )
    scaled.write(tmp_path)
    assert Summary.read(tmp_path) == scaled


def test_a_rank_needs_three_trials_that_differ() -> None:
    assert free_rank([]) is None
    assert free_rank([{"free/score": 0.1, "tstr/1nn": 0.2}] * 2) is None
    assert free_rank([{"free/score": 0.1, "tstr/1nn": 0.2}] * 3) is None
    assert free_rank([{"ssim/coverage": 0.1}] * 3) is None
