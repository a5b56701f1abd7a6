"""Algorithm 2: several classifiers, one generator."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gbc import export
from gbc.config import TrialConfig
from gbc.data.datasets import ImageDataset
from gbc.errors import BadInput
from gbc.kkt.trial_classifier import ForwardPass, all_class_names, labels_of_task
from gbc.metrics.scores import ReferenceSet
from gbc.training import tasks
from gbc.training.batches import tasks_for
from gbc.training.trainer import Trainer
from tests.conftest import TINY, TINY_CLASSIFIER

SHARED = {
    "classifier": {**TINY_CLASSIFIER, "name": "mlp", "weight_decay": 0.01},
    "weights": {"closed": 1.0, "stationarity": 0.5},
}
OTHER = {"classifier": TINY_CLASSIFIER, "dataset": {"name": "mnist", "per_class": 10}}


def parse(*experts: dict[str, object], **changes: object) -> TrialConfig:
    return TrialConfig.parse({**TINY, "experts": experts, **changes}, "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_classifiers_of_the_same_data_share_samples_and_their_index() -> None:
    config = parse(SHARED, OTHER, SHARED, OTHER)
    assert [spec.task for spec in config.classifiers()] == [0, 0, 1, 0, 1]


def test_every_data_set_is_read_from_a_root() -> None:
    config = parse(SHARED, OTHER).rooted("/data")
    assert [spec.dataset.data_root for spec in config.classifiers()] == ["/data"] * 3
    assert [spec.task for spec in config.classifiers()] == [0, 0, 1]


def test_two_classifiers_of_one_data_set_train_one_generator(cache: Path) -> None:
    config = parse(SHARED, closed_weight=0.1)
    inputs = tasks.obtain(config, cache)
    trainer = Trainer(config, inputs.classifiers, ReferenceSet.of(inputs.images, "cpu"))
    assert trainer.generator.tasks == 1 and trainer.multipliers.classifiers == 2
    metrics = next(trainer.run()).metrics
    assert {"kkt/alpha_1", "kkt/alpha_2", "kkt/rho_1", "kkt/rho_2", "loss/closed", "ssim/coverage"} <= set(metrics)
    assert metrics["kkt/rho"] == pytest.approx((metrics["kkt/rho_1"] + metrics["kkt/rho_2"]) / 2, rel=1e-5)
    first, second = trainer.classifiers
    assert first.weights["bn"] == 1.0 and second.weights["bn"] == 0.0  # it has no BatchNorm
    assert second.weights["stationarity"] == 0.5 and second.weights["closed"] == pytest.approx(0.1)
    # The closed form leaves out what BatchNorm makes scale-invariant: two of three linear layers of the first.
    assert len(first.decayed) == 6 and len(second.decayed) == 6


def test_classifiers_of_different_labels_make_one_generator_of_all(cache: Path, tmp_path: Path) -> None:
    config = parse(OTHER)
    inputs = tasks.obtain(config, cache)
    assert len(inputs.data.class_names) == 20 and len(inputs.data.train_labels) == 200
    trainer = Trainer(config, inputs.classifiers, ReferenceSet.of(inputs.images, "cpu"))
    reports = list(trainer.run())
    assert trainer.generator.tasks == 2
    assert [labels.tolist() for labels in trainer.labels_of_task] == [list(range(10)), list(range(10, 20))]
    assert trainer.evaluation_tasks.tolist() == [0] * 10 + [1] * 10 + ([0] * 10 + [1] * 10) * 4

    # Exported, a label finds its classifier by itself.
    out = export.write(
        tmp_path / "model", trainer.state_dict()["generator"], config, inputs, reports[-1].metrics, origin="", picture=None
    )
    generator = export.load(out)
    assert generator.sample([3, 13], seed=0).shape == (2, 1, 28, 28)
    noise = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    expected = trainer.sample(noise, torch.tensor([13]), torch.tensor([1]))
    torch.testing.assert_close(generator.sample([13], seed=5), expected)


def test_a_stopped_run_of_several_classifiers_continues_exactly(cache: Path) -> None:
    config = parse(SHARED, OTHER, closed_weight=0.1, bank=40, bank_share=0.5, bank_jitter=0.3, diversity_weight=0.1)
    inputs = tasks.obtain(config, cache)
    plain = [report.metrics["loss/total"] for report in Trainer(config, inputs.classifiers).run()]
    inputs = tasks.obtain(config, cache)
    first = Trainer(config, inputs.classifiers)
    begun = [next(first.run()).metrics["loss/total"]]
    second = Trainer(config, tasks.obtain(config, cache).classifiers)
    second.load_state_dict(first.state_dict())
    assert begun + [report.metrics["loss/total"] for report in second.run()] == plain


def test_labels_that_several_classifiers_know_take_turns() -> None:
    known = [torch.tensor([0, 1]), torch.tensor([1, 2])]
    labels = torch.tensor([0, 1, 2, 1, 1, 0])
    assert tasks_for(labels, known).tolist() == [0, 0, 1, 1, 0, 0]


def test_a_task_without_an_evaluated_sample_has_no_part_in_the_means(cache: Path) -> None:
    """With one sample of each label, the second of two tasks of the same classes gets none."""
    again = {"classifier": TINY_CLASSIFIER, "dataset": {"per_class": 5}}
    config = parse(again, eval_per_class=1)
    trainer = Trainer(config, tasks.obtain(config, cache).classifiers)
    assert trainer.evaluation_tasks.tolist() == [0] * 10
    metrics = next(trainer.run()).metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_exported_samples_draw_the_classifier_uniformly(cache: Path) -> None:
    generator = export.ExportedGenerator.__new__(export.ExportedGenerator)
    object.__setattr__(generator, "labels_of_task", [[0, 1], [1, 2]])
    object.__setattr__(generator, "class_names", ("a", "b", "c"))
    labels = torch.tensor([0] * 500 + [1] * 1000 + [2] * 500)
    drawn = generator._draw_tasks(labels, torch.Generator().manual_seed(0))
    assert drawn[:500].sum() == 0 and drawn[1500:].min() == 1
    assert 400 < drawn[500:1500].sum() < 600  # six standard deviations


def test_the_bank_gives_each_label_its_own_latents(cache: Path) -> None:
    config = parse(bank=20, batch_size=40)
    trainer = Trainer(config, tasks.obtain(config, cache).classifiers)
    seen = {tuple(z.tolist()) for _ in range(30) for z in trainer.batches.sample().noise}
    assert len(seen) == 20  # nothing but the bank, and all of it
    batch = trainer.batches.sample()
    owner = {tuple(latent.tolist()): index % 10 for index, latent in enumerate(trainer.batches.bank)}
    assert [owner[tuple(z.tolist())] for z in batch.noise] == batch.labels.tolist()
    half = Trainer(config.updated({"bank_share": 0.5}, "test"), tasks.obtain(config, cache).classifiers).batches.sample()
    assert sum(tuple(z.tolist()) in owner for z in half.noise) == 20
    near = Trainer(config.updated({"bank_jitter": 1.0}, "test"), tasks.obtain(config, cache).classifiers).batches.sample()
    assert near.noise.std() == pytest.approx(1.0, abs=0.25)


def test_kkt_losses_can_join_in_late(cache: Path) -> None:
    config = parse(kkt_from=0.5, beta=0.1)
    reports = list(Trainer(config, tasks.obtain(config, cache).classifiers).run())
    early, late = reports[0].metrics, reports[-1].metrics
    assert "loss/stationarity" not in early and "kkt/rho" not in early and "loss/bn" in early
    assert "loss/stationarity" in late and "loss/duality" in late and "kkt/rho" in late


@pytest.mark.parametrize(
    "changes", [{"estimator": "halves"}, {"surrogate": 100.0}, {"closed_weight": 0.1}, {"diversity_weight": 0.1}]
)
def test_every_variant_trains(cache: Path, changes: dict[str, object]) -> None:
    config = parse(**changes)
    metrics = next(Trainer(config, tasks.obtain(config, cache).classifiers).run()).metrics
    assert all(np.isfinite(value) for value in metrics.values())


BINARY = {
    "classifier": {"name": "mlp", "hidden": 16, "lr": 0.1, "steps": 300, "weight_decay": 0.01, "loss": "exponential"},
    "dataset": {"name": "fashion_mnist", "per_class": 10, "classes": [1, 9]},
}


def test_a_scalar_classifier_trains_a_generator_with_the_equations_of_supplement_b2(cache: Path) -> None:
    """y·Φ stands where Φ_y − Φ_c stood: one multiplier a sample, margins y·Φ, pull Σ μ_i y_i ∇Φ."""
    config = parse(bn_weight=0, closed_weight=0.1, **BINARY)
    inputs = tasks.obtain(config, cache)
    assert inputs.classifier.module(torch.rand(3, 1, 28, 28)).shape == (3, 1)
    trainer = Trainer(config, inputs.classifiers, ReferenceSet.of(inputs.images, "cpu"))
    classifier = trainer.classifiers[0]
    batch = trainer.batches.sample()
    seen = ForwardPass(classifier, trainer.multipliers, batch.images, batch.labels)
    scalar = classifier.phi(batch.images).squeeze(1)
    signs = 2.0 * batch.labels - 1
    torch.testing.assert_close(seen.margins, signs * scalar)
    own = seen.multipliers.gather(1, 1 - batch.labels[:, None]).squeeze(1)
    gradients = torch.autograd.grad((own.detach() * signs * scalar).mean(), classifier.zeta, retain_graph=True)
    torch.testing.assert_close(seen.margin_gradient, gradients, rtol=1e-4, atol=1e-8)
    assert next(trainer.run()).metrics["loss/closed"] > 0


def test_a_task_with_one_evaluated_sample_is_left_out_of_means(cache: Path) -> None:
    """BatchNorm has no statistics of one sample. The second task shares class 1 with the first, which has its sample."""
    small = {"name": "fashion_mnist", "per_class": 10}
    other = {"classifier": TINY_CLASSIFIER, "dataset": {**small, "classes": [1, 2]}}
    config = parse(other, dataset={**small, "classes": [0, 1]}, eval_per_class=1)
    trainer = Trainer(config, tasks.obtain(config, cache).classifiers)
    assert trainer.evaluation_tasks.tolist() == [0, 0, 1]
    metrics = next(trainer.run()).metrics
    assert all(math.isfinite(value) for value in metrics.values()) and metrics["classifier/accuracy"] in (0, 0.5, 1)


def test_more_classes_than_labels_have_values_are_refused() -> None:
    def images(name: str) -> ImageDataset:
        pixels, labels = np.zeros((200, 1, 8, 8), np.uint8), np.arange(200, dtype=np.uint8)
        return ImageDataset(name, tuple(f"{name} {label}" for label in labels), pixels, labels, pixels, labels)

    with pytest.raises(BadInput, match=r"400 classes.*256.*dataset\.classes"):
        tasks.merged([images("a"), replace(images("b"), train_images=np.ones((200, 1, 8, 8), np.uint8))])


def test_binary_and_multi_class_classifiers_mix(cache: Path) -> None:
    config = parse(BINARY)
    inputs = tasks.obtain(config, cache)
    trainer = Trainer(config, inputs.classifiers, ReferenceSet.of(inputs.images, "cpu"))
    assert [labels.tolist() for labels in trainer.labels_of_task] == [list(range(10)), [1, 9]]
    metrics = next(trainer.run()).metrics
    assert {"kkt/rho_1", "kkt/rho_2", "ssim/coverage"} <= set(metrics)


def test_the_first_classifier_has_factors_too(cache: Path) -> None:
    config = parse({**SHARED, "weights": {}}, weights={"ce": 0.0, "bn": 0.5})
    trainer = Trainer(config, tasks.obtain(config, cache).classifiers)
    first, second = (classifier.weights for classifier in trainer.classifiers)
    assert first["ce"] == 0 and second["ce"] == config.ce_weight > 0
    assert first["bn"] == 0.5 * config.bn_weight > 0
    assert first["stationarity"] == second["stationarity"] == config.stationarity_weight


def test_faults_are_named(cache: Path) -> None:
    for negative in ({"weights": {"ce": -1.0}}, {"experts": [{**SHARED, "weights": {"ce": -1.0}}]}):
        with pytest.raises(BadInput, match=r"weights\.ce.*-1"):
            TrialConfig.parse({**TINY, **negative}, "test")
    wrong = parse({**SHARED, "weights": {"clsoed": 1.0}})
    alone = parse(weights={"clsoed": 1.0})
    for faulty in (wrong, alone):
        with pytest.raises(BadInput, match=r"weights: 'clsoed'.*stationarity"):
            Trainer(faulty, tasks.obtain(faulty, cache).classifiers)
    nothing = parse(stationarity_weight=0, beta=0, tv_weight=0, bn_weight=0, ce_weight=0)
    with pytest.raises(BadInput, match="stationarity_weight"):
        Trainer(nothing, tasks.obtain(nothing, cache).classifiers).step()
    late = parse(kkt_from=0.5, tv_weight=0, bn_weight=0, ce_weight=0)
    with pytest.raises(BadInput, match="kkt_from"):
        Trainer(late, tasks.obtain(late, cache).classifiers).step()
    data = tasks.obtain(parse(), cache)
    known = data.classifier.class_names
    for names, odd in ((("x", "y"), known[-1]), ((*known[:9], "y"), "y")):
        strange = replace(data.classifier, class_names=names)
        with pytest.raises(BadInput, match=f"task 0.*'{odd}'"):
            labels_of_task(parse(SHARED).classifiers(), [data.classifier, strange])
        assert all_class_names([data.classifier, strange])[-1] == "y"


def test_the_union_of_data_sets_counts_each_once(images: ImageDataset) -> None:
    assert tasks.merged([images, images]) is images
    other = ImageDataset("other", ("Bag", "Hat"), images.train_images[:4], np.array([0, 1, 0, 1], dtype=np.uint8),
                         images.test_images[:2], np.array([0, 1], dtype=np.uint8))  # fmt: skip
    both = tasks.merged([images, other])
    assert both.class_names == (*images.class_names, "Hat")
    bag = images.class_names.index("Bag")
    assert both.train_labels[-4:].tolist() == [bag, 10, bag, 10]
    assert both.name == "fashion_mnist+other"
    small = ImageDataset(
        "small",
        ("a",),
        np.zeros((1, 8, 8), np.uint8),
        np.zeros(1, np.uint8),
        np.zeros((1, 8, 8), np.uint8),
        np.zeros(1, np.uint8),
    )
    with pytest.raises(BadInput, match="8, 8"):
        tasks.merged([images, small])
