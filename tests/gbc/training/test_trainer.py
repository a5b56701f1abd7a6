from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gbc import export, losses
from gbc.classifiers import architectures
from gbc.classifiers.architectures import Classifier
from gbc.config import LOSS_WEIGHTS, TrialConfig
from gbc.errors import BadInput, Diverged, NotQuasiHomogeneous
from gbc.kkt import homogeneity
from gbc.kkt.trial_classifier import ForwardPass
from gbc.kkt.weighted_losses import LOSSES, Loss
from gbc.report import METRIC_DIRECTIONS, Report
from gbc.runtime import derive_seed
from gbc.training.reporting import LastPass, kkt_state
from gbc.training.trainer import Trainer
from tests.gbc.training.conftest import FREE
from tests.support import missing

DESIGN = {
    "loss/total", "loss/stationarity", "loss/duality", "loss/tv", "loss/bn",
    "kkt/rho", "kkt/alpha", "kkt/mu_mean", "kkt/mu_active",
    "margin/q05", "margin/q50", "margin/q95", "classifier/accuracy",
    "ssim/nearest", "ssim/coverage", "tstr/1nn", "time/steps_per_s",
    "free/rho", "free/bn", "free/confidence", "free/score",
}  # fmt: skip


def numbers(reports: list[Report]) -> list[tuple[int, dict[str, float]]]:
    return [(r.step, {k: v for k, v in r.metrics.items() if not k.startswith("time/")}) for r in reports]


def test_reports_come_on_time_with_every_name_of_the_design(fresh: Callable[..., Trainer]) -> None:
    reports = list(fresh().run())
    assert [report.step for report in reports] == [3, 6, 9, 12]
    for report in reports:
        assert set(report.metrics) >= DESIGN
        assert set(report.metrics) <= set(METRIC_DIRECTIONS)
        assert report.images is not None and report.images.ndim == 2


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(fresh: Callable[..., Trainer]) -> None:
    first, second, other = (numbers(list(fresh(seed=seed).run())) for seed in (0, 0, 1))
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema_decay": 0.9},
        {"contrast_weight": 0.1},
        FREE | {"reconstruction_weight": 1.0},
    ],
)
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_run_that_was_stopped_and_continued_gives_the_same_numbers(
    fresh: Callable[..., Trainer], stop_after: int, changes: dict[str, Any], tmp_path: Any
) -> None:
    from gbc import checkpoint

    whole = numbers(list(fresh(lr_schedule="cosine", **changes).run()))

    first = fresh(lr_schedule="cosine", **changes)
    reports = []
    for report in first.run():
        reports.append(report)
        if len(reports) == stop_after:
            break
    checkpoint.save(tmp_path / "c", {"trainer": first.state_dict()})
    second = fresh(lr_schedule="cosine", **changes)
    second.load_state_dict(checkpoint.load(tmp_path / "c")["trainer"])
    assert numbers(reports + list(second.run())) == whole


def test_the_moving_average_of_the_generator_is_judged_and_continued(fresh: Callable[..., Trainer]) -> None:
    """w̄ ← d w̄ + (1 − d) w after each step, of the weights and of BatchNorm's statistics; training itself is as without it."""
    plain, averaged = fresh(), fresh(ema_decay=0.75)
    expected = {name: tensor.clone() for name, tensor in plain.generator.state_dict().items()}
    for _ in range(4):
        plain.step()
        averaged.step()
        for name, tensor in plain.generator.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * tensor
    state = averaged.state_dict()
    assert all(torch.equal(tensor, state["generator"][name]) for name, tensor in plain.state_dict()["generator"].items())
    drawn = export.generator_weights(state)
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(drawn[name], tensor)
    evaluation_inputs = (averaged.evaluation_noise, averaged.evaluation_labels, averaged.evaluation_tasks)
    plain.generator.load_state_dict(dict(drawn))
    assert torch.equal(averaged.sample(*evaluation_inputs), plain.sample(*evaluation_inputs))
    with pytest.raises(BadInput, match=r"checkpoint.*settings"):
        averaged.load_state_dict(plain.state_dict())


def test_a_checkpoint_of_other_networks_is_refused(fresh: Callable[..., Trainer]) -> None:
    with pytest.raises(BadInput, match=r"checkpoint.*settings"):
        fresh(width=8).load_state_dict(fresh().state_dict())


def test_no_value_is_read_back_within_a_step(fresh: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value makes a GPU's queue run dry; only reports may."""
    run = fresh()
    run.step()

    def synchronise(*_: object) -> None:
        raise AssertionError("a step waited for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, synchronise)
    run.step()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_weight_0_is_never_computed_and_one_with_weight_is_reported(
    name: str, fresh: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = LOSS_WEIGHTS[name]
    others = FREE if name == "reconstruction" else {}
    assert f"loss/{name}" in next(fresh(**{key: 0.5}, **others).run()).metrics

    def computed(_: object) -> torch.Tensor:
        raise AssertionError(f"{name} was computed")

    of = "of_images" if LOSSES[name].of_images else "of_classifier"
    monkeypatch.setitem(LOSSES, name, replace(LOSSES[name], **{of: computed}))
    without = next(fresh(**{key: 0}).run()).metrics
    assert f"loss/{name}" not in without
    with pytest.raises(AssertionError, match="was computed"):
        fresh(**{key: 0.5}, **others).step()


def test_every_loss_has_a_weight(settings: TrialConfig) -> None:
    assert settings.loss_weights().keys() == LOSSES.keys()
    assert all((loss.of_classifier is None) != (loss.of_images is None) for loss in LOSSES.values())


@pytest.mark.parametrize("name", ["tv_weight", "border_weight"])
def test_points_have_no_losses_of_pixels(name: str) -> None:
    points = Classifier(
        torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), ("a", "b", "c"), (2,), 6
    )
    without = {"tv_weight": 0.0, "border_weight": 0.0, "device": "cpu"}
    Trainer(TrialConfig(**without), [points])
    with pytest.raises(BadInput) as caught:
        Trainer(TrialConfig(**without | {name: 0.1}), [points])
    assert not missing([name, " 0"], caught.value)


def test_the_total_is_the_weighted_sum_of_its_parts(fresh: Callable[..., Trainer]) -> None:
    run = fresh(beta=0.3, tv_weight=0.7, stationarity_weight=2.0)
    metrics = next(run.run()).metrics
    expected = sum(weight * metrics[f"loss/{name}"] for name, weight in run.config.loss_weights().items() if weight)
    assert metrics["loss/total"] == pytest.approx(expected, rel=1e-5)  # float32 means of sums


def test_training_leaves_the_classifier_as_it_was(fresh: Callable[..., Trainer], classifier: Classifier) -> None:
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    list(fresh().run())
    for name, value in classifier.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in classifier.module.parameters())


def test_the_multipliers_start_at_the_least_squares_fit(fresh: Callable[..., Trainer]) -> None:
    """No other positive factor brings the two sides of Eq. (5) nearer; ρ starts at or below the 1 of μ ≡ 0."""
    seeds = range(5)
    residuals, pulls = [], []
    for seed in seeds:
        run = fresh(seed=seed)
        batch = run.batches.sample()
        seen = ForwardPass(run.classifiers[0], run.multipliers, batch.images, batch.labels)
        residuals.append(seen.rho().item())
        pulls.append((losses.norm(seen.margin_gradient) / losses.norm(seen.target)).item())
    # The scale was fitted on another batch of the same generator: allow for that.
    assert max(residuals) < 1.2
    assert all(0.001 < pull < 2 for pull in pulls)  # unfitted they differ by a factor of a hundred or more


@pytest.mark.long
def test_training_brings_the_samples_towards_real_images(fresh: Callable[..., Trainer]) -> None:
    """Convergence in small: BatchNorm statistics match better, the classifier agrees more, coverage grows."""
    reports = list(
        fresh(steps=200, report_every=50, batch_size=64, lr=1e-2, tv_weight=0.3, bn_weight=10.0, width=64, channels=16).run()
    )
    first, last = reports[0].metrics, reports[-1].metrics
    assert last["loss/bn"] < 0.5 * first["loss/bn"]
    assert last["classifier/accuracy"] > first["classifier/accuracy"]
    assert last["ssim/coverage"] > first["ssim/coverage"] + 0.03


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_both_batch_norm_modes_train(fresh: Callable[..., Trainer], mode: str) -> None:
    assert next(fresh(bn_mode=mode).run()).metrics["kkt/rho"] > 0


def test_the_multiplier_of_the_own_class_which_no_equation_uses_is_in_no_metric(fresh: Callable[..., Trainer]) -> None:
    run = fresh()
    report = next(run.run())
    ((_, labels, multipliers),) = run._last_passes
    assert torch.equal(labels, run.last_batches[0].labels) and multipliers is not None
    of_wrong = [value for row, label in zip(multipliers, labels, strict=True) for c, value in enumerate(row) if c != label]
    assert report.metrics["kkt/mu_mean"] == pytest.approx(torch.stack(of_wrong).mean().item())
    assert report.metrics["kkt/mu_active"] == pytest.approx((torch.stack(of_wrong) > 0).float().mean().item())
    by_hand = LastPass(torch.zeros(2), torch.tensor([0, 1]), torch.tensor([[9.0, 1.0, 2.0], [0.0, 7.0, 5.0]]))
    state = kkt_state(run.classifiers, [by_hand])
    assert (state["kkt/mu_mean"], state["kkt/mu_active"]) == (2.0, 0.75)


def test_divergence_names_step_and_loss(fresh: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "tv", Loss(of_images=lambda b: b.images.mean() / 0))
    with pytest.raises(Diverged, match=r"diverged: loss/.* was not finite at step 3") as caught:  # golden
        list(fresh().run())
    assert caught.value.step == 3


def test_divergence_survives_pickling_between_processes() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Diverged(7, "loss/tv")))
    assert str(again) == str(Diverged(7, "loss/tv"))


def test_batch_norm_matching_is_off_without_batch_norm(settings: TrialConfig, images: Any) -> None:
    config = settings.updated({"classifier.name": "mlp"}, "test")
    phi = Classifier(architectures.build(config.classifier, images.shape, 10), images.class_names, images.shape, 100)
    with_weight = Trainer(config, [phi])
    assert config.bn_weight and "BatchNorm" in with_weight.classifiers[0].off["bn"]
    without = next(Trainer(config.updated({"bn_weight": 0}, "test"), [phi]).run())
    assert numbers([next(with_weight.run())]) == numbers([without])
    assert "ssim/coverage" not in without.metrics and without.images is not None  # no reference, no real images
    assert without.images.shape == (5 * 30, 10 * 30)  # the samples alone, framed


def test_data_free_metrics_need_no_judge_and_do_not_depend_on_one(
    fresh: Callable[..., Trainer], settings: TrialConfig, classifier: Classifier
) -> None:
    with_reference = next(fresh().run()).metrics
    alone = next(Trainer(settings, [classifier]).run()).metrics
    free = {name: value for name, value in alone.items() if name.startswith("free/")}
    assert set(free) == {"free/rho", "free/bn", "free/confidence", "free/score"}
    assert free == {name: with_reference[name] for name in free}
    assert not any(name.startswith(("ssim/", "tstr/")) for name in alone)


def test_data_free_metrics_see_the_generator_as_its_users_get_it(fresh: Callable[..., Trainer]) -> None:
    """By hand: eval mode, the judged latents, the classifier's own statistics; ρ in the mode of the losses."""
    run = fresh()
    metrics = next(run.run()).metrics
    images, labels = run.sample(run.evaluation_noise, run.evaluation_labels, run.evaluation_tasks), run.evaluation_labels
    phi = run.classifiers[0].phi.eval()
    with torch.no_grad():
        probabilities = phi(images).softmax(dim=1)
    assert metrics["free/confidence"] == pytest.approx(probabilities[torch.arange(len(labels)), labels].mean().item())
    inputs = run.classifiers[0].batch_norm_inputs.statistics()
    assert metrics["free/bn"] == pytest.approx(losses.batch_norm_statistics(inputs).item())
    batch = ForwardPass(run.classifiers[0], run.multipliers, images, labels)
    rho = losses.relative_residual(batch.target, batch.margin_gradient).item()
    assert metrics["free/rho"] == pytest.approx(rho, rel=1e-5)
    assert metrics["free/score"] == pytest.approx(
        metrics["free/confidence"] / (1 + metrics["free/bn"]) / (1 + metrics["free/rho"])
    )


def test_data_free_metrics_leave_the_training_as_it_was(fresh: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    with_them = numbers(list(fresh().run()))
    accuracy = {"classifier/accuracy": 0.0}
    monkeypatch.setattr("gbc.training.trainer.data_free_metrics", lambda classifiers, multipliers, reference: accuracy)
    without = numbers(list(fresh().run()))
    for (_, left), (_, right) in zip(with_them, without, strict=True):
        assert {**left, **accuracy} == {**left, **right}


def test_parts_that_a_trial_does_not_have_are_not_reported(
    fresh: Callable[..., Trainer], settings: TrialConfig, images: Any
) -> None:
    no_multipliers = next(fresh(stationarity_weight=0).run()).metrics
    assert "free/rho" not in no_multipliers and "free/score" in no_multipliers
    config = settings.updated({"classifier.name": "mlp", "bn_weight": 0}, "test")
    phi = Classifier(architectures.build(config.classifier, images.shape, 10), images.class_names, images.shape, 100)
    no_batch_norm = next(Trainer(config, [phi]).run()).metrics
    assert "free/bn" not in no_batch_norm and "free/score" in no_batch_norm


@pytest.mark.parametrize(
    "policy", [{"lambda_policy": "min_norm"}, {"lambda_policy": "uniform"},
               {"lambda_policy": "given", "lambda_values": {"7.weight": 0.75}}]
)  # fmt: skip
def test_every_policy_trains(fresh: Callable[..., Trainer], policy: dict[str, Any]) -> None:
    run = fresh(**policy)
    assert run.classifiers[0].target.largest == 1  # the last bias
    assert next(run.run()).metrics["kkt/rho"] > 0


def test_a_policy_that_does_not_fit_the_batch_norm_mode_names_the_layer(fresh: Callable[..., Trainer]) -> None:
    with pytest.raises(NotQuasiHomogeneous, match="BatchNorm1d") as caught:
        fresh(lambda_policy="uniform", bn_mode="eval")
    assert caught.value.layer == "2"


def test_a_wrong_lambda_is_refused(fresh: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = lambda module, *_: {name: 1.0 for name, _ in module.named_parameters()}  # noqa: E731
    monkeypatch.setitem(homogeneity.POLICIES, "min_norm", everything)
    with pytest.raises(NotQuasiHomogeneous, match=r"\de[+-]\d") as caught:
        fresh(lambda_policy="min_norm")
    assert caught.value.layer == "min_norm"  # the policy: no layer alone is at fault


def test_a_gpu_that_is_not_there_is_named(fresh: Callable[..., Trainer]) -> None:
    with pytest.raises(BadInput, match=r"device .*'cuda:99'.*'cpu'"):
        fresh(device="cuda:99")


def test_streams_of_seeds_do_not_meet() -> None:
    derived_seeds = {derive_seed(seed, stream) for seed in range(20) for stream in range(20)}
    assert len(derived_seeds) == 400 and min(derived_seeds) >= 0


def test_free_multipliers_have_a_learning_rate_of_their_own(fresh: Callable[..., Trainer]) -> None:
    """Adam's first step is lr times the sign of the gradient: no parameter that has one moves by less or more."""
    run = fresh(**FREE, lr=1e-3, reconstruction_weight=1.0)
    pixels, free = run.generator.logits.detach().clone(), run.multipliers.values.detach().clone()
    run.step()
    assert (run.generator.logits - pixels).abs().max().item() == pytest.approx(1e-3, rel=1e-2)
    assert (run.multipliers.values - free).abs().max().item() == pytest.approx(0.5e-3, rel=1e-2)


@pytest.mark.parametrize("count", [45, 75])
def test_candidates_that_do_not_fit_the_labels_are_refused(fresh: Callable[..., Trainer], count: int) -> None:
    with pytest.raises(BadInput, match=f"candidates .*10.*50.*{count}"):
        fresh(**FREE, candidates=count)
