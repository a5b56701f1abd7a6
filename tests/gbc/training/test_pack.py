"""Every member of a pack against a trainer of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gbc.classifiers import architectures
from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.errors import BadInput, Diverged
from gbc.metrics.scores import Judge
from gbc.report import Report
from gbc.training.pack import Member, Pack, key
from gbc.training.trainer import Trainer
from tests.gbc.training.test_cuda_graph import Watch

# What members may differ in. Every one has a seed of its own.
DIFFERENT: list[dict[str, Any]] = [
    {"lr": 1e-3, "weight_decay": 3e-4},
    {"lr": 3e-3, "beta": 0.1, "tv_weight": 0.1, "lr_schedule": "cosine", "delta": 0.3},
    {"lr": 2e-3, "stationarity_weight": 3.0, "bn_weight": 0.3, "alpha_init": 0.5, "weight_decay": 0.0},
]

# In float64 what a step sees differs by rounding alone, some 1e-16 a sum. The gradient of a bias before BatchNorm is 0 up to
# rounding, and Adam makes steps of that noise: nothing that is trained sees these biases, but generators in eval mode do, until
# the running mean has caught up.
EXACT, EXACT_STATE = 1e-9, 3e-5
# In float32 the noise is larger than Adam's eps, its steps are full ones, and ReLUs switch at other moments.
FLOAT32 = 5e-3
# Of 50 judged images; each that is named otherwise is 0.02.
FLOAT32_JUDGED = 0.05

FEATURES: dict[str, dict[str, Any]] = {
    "default": {},
    "halves": {"estimator": "halves"},
    "relative": {"estimator": "relative"},
    "cosine": {"estimator": "cosine", "multiplier_floor": 0.1},
    "closed form": {"closed_weight": 0.5},
    "closed form alone": {"closed_weight": 0.5, "stationarity_weight": 0},
    "no gradient to the classifier": {"stationarity_weight": 0, "beta": 0},
    "every tensor": {"lambda_policy": "min_norm"},
    "stored statistics": {"bn_mode": "eval"},
    "surrogate": {"surrogate": 20.0},
    "bank": {"bank": 40, "bank_share": 0.5, "bank_jitter": 0.1},
    "diversity": {"diversity_weight": 0.5},
    "row space": {"row_space_weight": 0.7, "row_space_level": 0.1},
    "row space of convolutions": {
        "classifier.name": "resnet", "row_space_weight": 0.7, "row_space_eps": 0.1, "row_space_layers": "all",
    },
    "pixels": {"generator": "pixels"},
    "convolutions": {"classifier.name": "conv", "bn_weight": 0},
    "residual": {"classifier.name": "resnet"},
    "two classifiers": {"experts": [{"classifier": {"hidden": 12}, "weights": {"duality": 0.3, "ce": 0.0}}]},
    "two tasks": {
        "dataset.classes": [0, 1, 2],
        "experts": [{"classifier": {"hidden": 12}, "dataset": {"classes": [2, 3], "per_class": 10}, "weights": {"bn": 0.5}}],
    },
    "two outputs": {"dataset.classes": [3, 1], "classifier.loss": "exponential", "closed_weight": 0.1},
    "points": {
        "dataset": {"name": "circle"}, "classifier": {"name": "mlp", "hidden": 12}, "bn_weight": 0, "tv_weight": 0,
        "batch_size": 18,
    },
}  # fmt: skip


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def untrained(config: TrialConfig) -> list[Classifier]:
    """New ones each time: trainers leave hooks on them. What they were trained to say matters to no comparison."""
    found = []
    for number, subject in enumerate(config.subjects()):
        names = tuple(map(str, subject.dataset.classes or range(3 if subject.dataset.name == "circle" else 10)))
        shape = (2,) if subject.dataset.name == "circle" else (1, 28, 28)
        own = subject.classifier.model_copy(update={"seed": number})
        module = architectures.build(own, shape, 1 if own.loss == "exponential" else len(names))
        with torch.no_grad():  # no bias is 0 any more, as after training
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        found.append(Classifier(module, names, shape, 100))
    return found


def changed(settings: TrialConfig, shared: dict[str, Any]) -> list[TrialConfig]:
    """Settings of members that have `shared` in common; what that turns off stays off."""
    return [
        settings.updated({**{n: v for n, v in own.items() if shared.get(n) != 0}, "seed": seed, **shared}, "test")
        for seed, own in enumerate(DIFFERENT)
    ]


def solo(
    config: TrialConfig,
    steps: int,
    state: dict[str, Any] | None = None,
    found: list[Classifier] | None = None,
    judge: Judge | None = None,
) -> tuple[list[Report], dict[str, Any]]:
    """Reports and the state after `steps` steps in all."""
    trainer = Trainer(config, found or untrained(config), judge)
    if state is not None:
        trainer.load_state_dict(state)
    reports = []
    for report in trainer.run():
        reports.append(report)
        if report.step >= steps:
            break
    return reports, trainer.state_dict()


def together(pack: Pack, steps: int) -> dict[Member, list[Report]]:
    """Steps of a pack, with reports as they come due."""
    found: dict[Member, list[Report]] = {member: [] for member in pack.members}
    for _ in range(steps):
        moving = [member for member in pack.members if not member.done]
        pack.step()
        for member in moving:
            if member.due:
                found[member].append(pack.report(member))
    return found


def assert_same_reports(found: list[Report], expected: list[Report], trained: float, judged: float) -> None:
    """Relative tolerances: of what training saw, and of the samples that are judged."""
    assert [report.step for report in found] == [report.step for report in expected]
    for mine, right in zip(found, expected, strict=True):
        assert list(mine.metrics) == list(right.metrics)
        for name in right.metrics.keys() - {"time/steps_per_s"}:
            tolerance = trained if name.startswith(("loss/", "kkt/", "margin/", "grad/")) else judged
            assert mine.metrics[name] == pytest.approx(right.metrics[name], rel=tolerance, abs=tolerance), name


def assert_same_state(found: Any, expected: Any, tolerance: float, where: str = "state") -> None:
    """The same keys, types and shapes, and the same numbers."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name in expected:
            assert_same_state(found[name], expected[name], tolerance, f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, (mine, right) in enumerate(zip(found, expected, strict=True)):
            assert_same_state(mine, right, tolerance, f"{where}[{number}]")
    elif isinstance(expected, torch.Tensor):
        assert found.stride() == expected.stride() and found.requires_grad == expected.requires_grad, where
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}")
    else:
        assert found == expected, where


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("feature", FEATURES)
def test_every_member_has_the_numbers_of_a_run_alone(settings: TrialConfig, feature: str) -> None:
    configs = changed(settings, FEATURES[feature])
    pack = Pack(untrained(configs[0]))
    members = [pack.add(config) for config in configs]
    reports = together(pack, 6)
    for member, config in zip(members, configs, strict=True):
        expected, state = solo(config, 6)
        assert_same_reports(reports[member], expected, EXACT, EXACT_STATE)
        assert_same_state(pack.state_dict(member), state, EXACT_STATE)


@pytest.mark.usefixtures("double")
def test_members_may_differ_in_the_weight_and_level_of_the_row_space(settings: TrialConfig) -> None:
    own = [{"row_space_weight": 0.3, "row_space_level": 0.1}, {"row_space_weight": 2.0, "row_space_level": 0.5}]
    configs = [settings.updated({**changes, "seed": seed}, "test") for seed, changes in enumerate(own)]
    assert key(configs[0]) == key(configs[1]) != key(settings)
    pack = Pack(untrained(settings))
    members = [pack.add(config) for config in configs]
    reports = together(pack, 6)
    for member, config in zip(members, configs, strict=True):
        expected, state = solo(config, 6)
        assert expected[0].metrics["loss/row_space"] > 0
        assert_same_reports(reports[member], expected, EXACT, EXACT_STATE)
        assert_same_state(pack.state_dict(member), state, EXACT_STATE)


def test_in_float32_with_a_judge(settings: TrialConfig, classifier: Classifier, judge: Judge) -> None:
    pack = Pack([classifier], judge)
    configs = changed(settings, {})
    members = [pack.add(config) for config in configs]
    reports = together(pack, 6)
    for member, config in zip(members, configs, strict=True):
        expected, right = solo(config, 6, None, [classifier], judge)
        assert_same_reports(reports[member], expected, FLOAT32, FLOAT32_JUDGED)
        pictures = [report.images for report in (*reports[member], *expected)]
        assert all(picture is not None and picture.shape == pictures[0].shape for picture in pictures)
        state = pack.state_dict(member)
        assert torch.equal(state["rng"], right["rng"])  # every number drawn is the same, in the same order
        assert_same_state(state, right, 10 * config.lr)  # as many full steps of noise, and some


@pytest.mark.usefixtures("double")
def test_members_join_and_leave_and_end_at_any_time(settings: TrialConfig) -> None:
    """Three, one that joins late, one that leaves, one whose run is shorter; what became of each is what it does alone."""
    first, second, third = changed(settings, {})
    short, late = second.updated({"steps": 3}, "test"), third.updated({"seed": 7}, "test")
    pack = Pack(untrained(first))
    members = {"first": pack.add(first), "short": pack.add(short), "third": pack.add(third)}
    reports = together(pack, 3)
    assert members["short"].done and not members["first"].done
    members["late"] = pack.add(late)
    more = together(pack, 2)
    pack.remove(members["third"])
    assert members["third"] not in pack.members
    last = together(pack, 4)

    found = {name: [r for part in (reports, more, last) for r in part.get(m, [])] for name, m in members.items()}
    for name, config, steps in (("first", first, 9), ("short", short, 3), ("late", late, 6)):
        expected, state = solo(config, steps)
        assert_same_reports(found[name], expected, EXACT, EXACT_STATE)
        if members[name].step_count == steps:
            assert_same_state(pack.state_dict(members[name]), state, EXACT_STATE)
    assert [members[name].step_count for name in members] == [9, 3, 5, 6]
    pack.remove(members["first"])
    pack.remove(members["late"])
    pack.step()  # none is left that has a step to make
    assert members["short"].step_count == 3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shared", [{}, {"stationarity_weight": 0}, {"bank": 20}])
def test_a_run_goes_from_alone_to_a_pack_and_back(settings: TrialConfig, shared: dict[str, Any]) -> None:
    configs = changed(settings, shared)
    pack = Pack(untrained(configs[0]))
    other = pack.add(configs[0])
    pack.step()  # its neighbour is at another step of its own
    member = pack.add(configs[1], solo(configs[1], 3)[1])
    in_pack = together(pack, 3)[member]
    again, end = solo(configs[1], 9, pack.state_dict(member))
    expected, right = solo(configs[1], 9)
    assert_same_reports(in_pack + again, expected[1:], EXACT, EXACT_STATE)
    assert_same_state(end, right, EXACT_STATE)
    assert other.step_count == 4 and pack.members == [other, member]


def test_what_has_made_no_step_is_as_it_came(settings: TrialConfig) -> None:
    pack = Pack(untrained(settings))
    state = solo(settings, 3)[1]
    assert_same_state(pack.state_dict(pack.add(settings, state)), state, 0)
    assert_same_state(pack.state_dict(pack.add(settings)), Trainer(settings, untrained(settings)).state_dict(), 0)


@pytest.mark.parametrize("how", ["overflow", "not a number"])
def test_a_member_that_diverges_leaves_its_neighbours_alone(settings: TrialConfig, how: str) -> None:
    """To the last bit: the same pack with a neighbour in good health gives the same numbers."""
    configs = changed(settings, {})
    state = solo(configs[1], 3)[1]
    ill = solo(configs[1], 3)[1]
    if how == "overflow":
        ill["alphas"][0].fill_(80.0)  # e^80 squared is more than float32 holds
    else:
        for tensor in (*ill["generator"].values(), *ill["multipliers"].values()):
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)

    found = []
    for middle in (state, ill):
        pack = Pack(untrained(settings))
        members = [pack.add(configs[0]), pack.add(configs[1], middle), pack.add(configs[2])]
        for _ in range(3):
            pack.step()
        reports = {}
        for member in members:
            if middle is ill and member is members[1]:
                with pytest.raises(Diverged, match="diverged: loss/total was not finite at step 6"):
                    pack.report(member)
            else:
                reports[member] = pack.report(member)
                assert all(math.isfinite(value) for value in reports[member].metrics.values())
        pack.remove(members[1])
        for _ in range(3):
            pack.step()
        found.append([(reports[m], pack.report(m), pack.state_dict(m)) for m in (members[0], members[2])])
    for (*reports, end), (*same, same_end) in zip(*found, strict=True):
        assert_same_reports(reports, same, 0, 0)
        assert_same_state(end, same_end, 0)


def test_no_value_is_read_back_within_a_step(settings: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = Pack(untrained(settings))
    for config in changed(settings, {}):
        pack.add(config)
    pack.step()

    def synchronise(*_: object) -> None:
        raise AssertionError("a step waited for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, synchronise)
    pack.step()


@pytest.mark.parametrize("feature", FEATURES)
def test_a_step_can_be_captured(settings: TrialConfig, feature: str) -> None:
    """It asks for nothing that the device has yet to compute, and its tensors stay where they are, reports included."""
    configs = changed(settings, FEATURES[feature])
    pack = Pack(untrained(configs[0]))
    members = [pack.add(config) for config in configs]
    pack.step()
    assert pack._stack is not None
    stack, places = pack._stack, [tensor.data_ptr() for tensor in pack._stack._moving()]
    with Watch() as watch:
        pack.step()
        pack.step()
    assert watch.waited == []
    pack.report(members[1])
    pack.step()
    assert pack._stack is stack and [tensor.data_ptr() for tensor in stack._moving()] == places


@pytest.mark.gpu
@pytest.mark.parametrize("feature", FEATURES)
def test_on_a_gpu_a_replayed_pack_is_the_pack_and_each_member_a_run_alone(settings: TrialConfig, feature: str) -> None:
    """Warnings are errors here: a graph that is not used, or not right, fails."""
    longer = {"device": "cuda", "steps": 24, "report_every": 12}
    configs = [config.updated(longer, "test") for config in changed(settings, FEATURES[feature])]
    pack = Pack(untrained(configs[0]))
    members = [pack.add(config) for config in configs]
    reports = together(pack, 24)
    for member, config in zip(members, configs, strict=True):
        expected, state = solo(config, 24)
        # Convolutions take TF32 there, whose roundings are a thousandth, and steps of noise are full ones.
        assert_same_reports(reports[member], expected, 0.05, 0.1)
        assert torch.equal(pack.state_dict(member)["rng"], state["rng"])
    pack = Pack(untrained(configs[0]))
    pack.add(configs[0])
    for _ in range(6):
        pack.step()
    assert pack._stack is not None and pack._stack._replayed._graph is not None


def test_reports_leave_the_training_as_it_was(settings: TrialConfig) -> None:
    config = changed(settings, {})[0]
    with_them, without = Pack(untrained(config)), Pack(untrained(config))
    first, second = with_them.add(config), without.add(config)
    together(with_them, 6)
    for _ in range(6):
        without.step()
    assert_same_state(with_them.state_dict(first), without.state_dict(second), 0)


def test_the_classifiers_stay_as_they_are(settings: TrialConfig) -> None:
    found = untrained(settings)
    before = {name: value.clone() for name, value in found[0].module.state_dict().items()}
    pack = Pack(found)
    pack.add(settings)
    together(pack, 3)
    assert all(torch.equal(value, before[name]) for name, value in found[0].module.state_dict().items())
    assert all(parameter.grad is None for parameter in found[0].module.parameters())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch_size": 16}, "batch_size is 16 and in this pack 32: train it in another"),
        ({"bn_weight": 0.0}, "losses is .* and in this pack .*: train it in another"),
        ({"classifier.hidden": 12}, "classifier is .* and in this pack .*: train it in another"),
        ({"kkt_from": 0.5}, "kkt_from is 0.5: losses of a pack cannot join in late; set it to 0 or train alone"),
        ({"ema_decay": 0.9}, "ema_decay is 0.9: packs keep no average; set it to 0 or train without packs"),
        ({"generator": "pixels", "multipliers": "free"}, "free multipliers are for a trial alone"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_the_pack_goes_on(
    settings: TrialConfig, changes: dict[str, Any], line: str
) -> None:
    pack = Pack(untrained(settings))
    member = pack.add(settings)
    with pytest.raises(BadInput, match=line) as caught:
        pack.add(settings.updated(changes, "test"))
    assert "\n" not in str(caught.value)
    assert pack.members == [member]
    pack.step()


def test_nothing_to_train_is_refused(settings: TrialConfig) -> None:
    nothing = {name: 0 for name in ("stationarity_weight", "beta", "tv_weight", "bn_weight", "ce_weight")}
    with pytest.raises(BadInput, match="every loss has weight 0"):
        Pack(untrained(settings)).add(settings.updated(nothing, "test"))


def test_a_state_of_other_networks_is_refused(settings: TrialConfig) -> None:
    pack = Pack(untrained(settings))
    with pytest.raises(BadInput, match="the checkpoint does not fit these settings"):
        pack.add(settings.updated({"width": 8}, "test"), solo(settings, 3)[1])


def test_the_key_is_what_members_have_in_common(settings: TrialConfig) -> None:
    assert len({key(config) for config in changed(settings, {})}) == 1
    others: list[dict[str, Any]] = [{"batch_size": 64}, {"tv_weight": 0.0}, {"width": 8}, {"bn_mode": "eval"}]
    assert len({key(settings.updated(change, "test")) for change in [{}, *others]}) == 5
    with pytest.raises(BadInput, match="kkt_from"):
        key(settings.updated({"kkt_from": 0.1}, "test"))
