"""A step can be captured as a CUDA graph: it waits for nothing and its tensors stay where they are. On a GPU: it is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.metrics.scores import ReferenceSet
from gbc.report import Report
from gbc.training.cuda_graph import GraphReplay, same_step
from gbc.training.trainer import Trainer

# Operators whose result the host needs before it can go on.
WAITING = {
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "_unique2",
    "unique_dim",
    "bincount",
}

FREE_MULTIPLIERS: dict[str, Any] = {
    "generator": "pixels",
    "weight_decay": 0.0,
    "multipliers": "free",
    "multiplier_rate": 0.5,
    "lr_schedule": "cosine",
    "reconstruction_weight": 1.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"lr_schedule": "cosine"},
    "moving average": {"ema_decay": 0.9},
    "unbiased": {"estimator": "halves"},
    "closed form, from half-way on": {"closed_weight": 0.1, "kkt_from": 0.5},
    "bank": {"bank": 40, "bank_share": 0.5},
    "diversity": {"diversity_weight": 0.1},
    "contrast": {"contrast_weight": 0.1, "contrast_queue": 100},
    "stored statistics": {"bn_mode": "eval"},
    "surrogate": {"surrogate": 50.0},
    "pixels": {"generator": "pixels", "weight_decay": 0.0},
    "free multipliers": FREE_MULTIPLIERS,
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    settings: dict[str, Any] = request.param
    return settings


@pytest.fixture
def fresh(classifier: Classifier, settings: TrialConfig, reference: ReferenceSet) -> Callable[..., Trainer]:
    def make(device: str = "cpu", **changes: Any) -> Trainer:
        on = ReferenceSet(
            *(
                part.to(device)
                for part in (reference.train_images, reference.train_labels, reference.test_images, reference.test_labels)
            )
        )
        return Trainer(settings.updated({"device": device, **changes}, "test"), [classifier], on)

    return make


class Watch(TorchDispatchMode):
    """Notes every operator that waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # A mask as an index is a `nonzero`.
        masks = name == "index" and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if name in WAITING or masks:
            self.waited.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(fresh: Callable[..., Trainer], variant: dict[str, Any]) -> None:
    run = fresh(**variant)
    with Watch() as watch:
        for _ in range(run.config.steps):  # losses that join in late, too
            run.step()
    assert watch.waited == []


def test_the_watch_sees_what_waits() -> None:
    values = torch.arange(3.0)
    with Watch() as watch:
        float(values.sum())
        torch.nonzero(values)
        values[values > 1]
        torch.nn.functional.one_hot(torch.arange(3), 3)
    assert {"_local_scalar_dense", "nonzero", "index"} <= set(watch.waited)


def test_tensors_stay_where_they_are(fresh: Callable[..., Trainer], variant: dict[str, Any]) -> None:
    """The addresses stay from the step that creates the last tensor, reports included."""
    run = fresh(**variant | {"kkt_from": 0.0})
    reports = run.run()
    next(reports)
    addresses = [tensor.data_ptr() for tensor in run._changing_tensors()]
    next(reports)
    assert [tensor.data_ptr() for tensor in run._changing_tensors()] == addresses


def test_a_step_changes_nothing_that_is_not_listed(fresh: Callable[..., Trainer]) -> None:
    """Put back what is listed and the state of the random generator, and the same step gives the same numbers."""
    run = fresh()
    run.step()
    before, state = [tensor.detach().clone() for tensor in run._changing_tensors()], run.rng.get_state()
    run.step()
    first = [tensor.detach().clone() for tensor in run._changing_tensors()]
    with torch.no_grad():
        for tensor, value in zip(run._changing_tensors(), before, strict=True):
            tensor.copy_(value)
    run.rng.set_state(state)
    run.step()
    assert all(torch.equal(*pair) for pair in zip(run._changing_tensors(), first, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(before, first, strict=True) if pair[0].numel() > 100)


def test_a_step_leaves_nothing_of_its_graph(fresh: Callable[..., Trainer], variant: dict[str, Any]) -> None:
    """The nodes that collect gradients remember the stream of their first pass. A capture must find none of another stream."""
    run = fresh(**variant)
    reports = run.run()
    for go_on in (run.step, lambda: next(reports)):
        nodes = [torch.autograd.graph.get_gradient_edge(parameter).node for parameter in run.trained]
        for node in nodes:
            node.metadata["before"] = True
        go_on()  # uses them, for they are alive
        del node, nodes
        assert not any(torch.autograd.graph.get_gradient_edge(parameter).node.metadata for parameter in run.trained)


def test_a_trainer_that_is_dropped_is_gone_at_once(fresh: Callable[..., Trainer], variant: dict[str, Any]) -> None:
    """Its memory is free too: the next trial in this process needs it, and the garbage collector knows nothing of a GPU's."""
    run = fresh(**variant)
    next(run.run())
    classifier, left = run.classifiers[0].loaded, weakref.ref(run)
    gc.collect()
    gc.disable()
    try:
        del run
        assert left() is None
    finally:
        gc.enable()
    assert not any(module._forward_pre_hooks for module in classifier.module.modules())


def test_a_wrong_step_is_told_from_a_right_one(fresh: Callable[..., Trainer]) -> None:
    """The test of a graph before its use: right up to rounding passes; none, another batch or another rate does not."""
    run = fresh(batch_size=128, lr=5e-3)
    for _ in range(3):
        run.step()
    before, drawn = [tensor.detach().clone() for tensor in run._changing_tensors()], run.rng.get_state()

    def step(drawn: torch.Tensor, rate: float = 5e-3, noise: float = 0.0) -> list[torch.Tensor]:
        with torch.no_grad():
            for tensor, value in zip(run._changing_tensors(), before, strict=True):
                tensor.copy_(value * (1 + noise * torch.randn_like(value)) if value.is_floating_point() else value)
        run.rng.set_state(drawn)
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        run.step()
        return [tensor.detach().clone() for tensor in run._changing_tensors()]

    right = step(drawn)
    assert same_step(step(drawn), right)
    assert same_step(step(drawn, noise=1e-7), right)
    assert not same_step(before, right)
    assert not same_step(step(torch.Generator().manual_seed(9).get_state()), right)
    assert not same_step(step(drawn, rate=1e-2), right)


def test_a_run_goes_on_from_a_state_of_another_kind_of_device(fresh: Callable[..., Trainer]) -> None:
    """A CUDA generator's state is 16 bytes: a CPU's cannot continue it, and draws anew."""
    run, other = fresh(), fresh()
    next(run.run())
    state = run.state_dict() | {"rng": torch.zeros(16, dtype=torch.uint8)}
    other.load_state_dict(state)
    assert other.step_count == run.step_count
    assert not torch.equal(other.rng.get_state(), run.rng.get_state())
    assert len(list(other.run())) == 3


def test_what_is_lost_in_both_ways_of_a_step_is_alike() -> None:
    tensor = torch.tensor([1.0, torch.nan, torch.inf, 2.0])
    assert same_step([tensor], [tensor + 1e-5]) and same_step([torch.arange(3)], [torch.arange(3)])
    assert not same_step([tensor], [torch.tensor([1.0, 0.0, torch.inf, 2.0])])
    assert not same_step([tensor], [torch.tensor([1.1, torch.nan, torch.inf, 2.0])])


def numbers(reports: list[Report]) -> list[dict[str, float]]:
    return [{k: v for k, v in report.metrics.items() if not k.startswith("time/")} for report in reports]


@pytest.mark.gpu
def test_on_a_gpu_a_replayed_run_is_the_run(fresh: Callable[..., Trainer], variant: dict[str, Any]) -> None:
    """Warnings are errors here: a graph that is not used, or not right, fails."""
    replayed, stepped = fresh("cuda", **variant, steps=40, report_every=10), fresh("cuda", **variant, steps=40, report_every=10)
    stepped._replayed_step._usable = False
    for ours, theirs in zip(numbers(list(replayed.run())), numbers(list(stepped.run())), strict=True):
        assert ours == pytest.approx(theirs, rel=0.02, abs=1e-3)  # forty steps apart in the last bit of a float32
    assert replayed._replayed_step._graph is not None


@pytest.mark.gpu
def test_on_a_gpu_a_run_goes_on_from_a_checkpoint_of_either_device(fresh: Callable[..., Trainer]) -> None:
    for first, second in (("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")):
        run = fresh(first)
        next(run.run())
        other = fresh(second)
        other.load_state_dict(run.state_dict())
        assert len(list(other.run())) == 3


@pytest.mark.gpu
def test_on_a_gpu_a_step_that_cannot_be_captured_is_run_as_it_is() -> None:
    """It goes on from where it was: neither a tensor nor the generator is left as the capture had it."""
    total = torch.zeros(1, device="cuda")

    def step(rng: torch.Generator) -> float:
        total.add_(torch.rand(1, generator=rng, device="cuda"))
        return float(total)  # waits for the device, which a capture cannot

    alone = torch.Generator("cuda").manual_seed(0)
    expected = [step(alone) for _ in range(8)]
    total.zero_()
    rng = torch.Generator("cuda").manual_seed(0)
    replay = GraphReplay[float](rng)
    with pytest.warns(UserWarning, match="not replayed"):
        assert [replay(lambda: step(rng), lambda: [total]) for _ in range(8)] == expected
