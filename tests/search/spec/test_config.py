from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from gbc import plain_yaml
from gbc.config import TrialConfig
from gbc.data.datasets import DATASETS
from gbc.errors import BadInput
from search.run import parser
from search.spec.config import SweepConfig
from search.spec.flags import from_options, settings
from search.spec.presets import CONFIGS, preset_help, presets
from search.spec.resolve import objective_flags, requirement_flags, resolve
from search.spec.space import Dimension, settle
from tests.conftest import TINY
from tests.search.conftest import resolved_sweep, tiny_sweep
from tests.support import missing


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_in_configs_is_a_sweep(path: Path) -> None:
    dataset, _, preset = path.stem.partition("-")
    config = resolved_sweep(dataset=dataset, preset=preset)
    assert (config.dataset, config.preset, config.name) == (dataset, preset, path.stem)
    assert config.first_rung % config.trial.report_every == 0


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_every_data_set_has_both_presets(dataset: str, preset: str) -> None:
    config = resolved_sweep(dataset=dataset, preset=preset)
    reference = resolved_sweep(preset=preset)
    assert set(config.space) == set(reference.space)
    if preset == "paper":
        assert config.space == reference.space and config.trial.steps == 50_000


@pytest.mark.parametrize(
    "options",
    [
        {}, {"repeat": 2, "trials": 3}, {"objective": "tstr/1nn,classifier/accuracy"}, {"sampler": "grid"}, {"steps": 100},
        {"classifier": "conv", "require": {"kkt/rho": 0.9}, "log_to": "tensorboard", "max_steps": 10**9, "report_every": 2},
        {"warm_start": "other", "warm_start_trials": 3, "scheduler": "median", "patience": 3, "hang_limit": 5},
        {"storage": "s3://bucket/x", "study_url": "postgresql://me@host/d", "tracking_uri": "http://host:5000"},
    ],
    ids=lambda options: " ".join(options) or "as it is",
)  # fmt: skip
@pytest.mark.parametrize("preset", [(name, preset) for name, kinds in presets().items() for preset in kinds], ids="-".join)
def test_a_resolved_sweep_is_a_file_for_the_same_sweep(
    preset: tuple[str, str], options: dict[str, object], tmp_path: Path
) -> None:
    given = {**options, **({"images": "/tmp"} if preset[0] == "images" else {})}
    if preset[0] == "none" and "objective" in options:
        given["objective"] = "free/score,classifier/accuracy"
    flags = settings(from_options(given))
    asked = resolved_sweep(dataset=preset[0], preset=preset[1], flags=flags)
    printed = tmp_path / "printed.yaml"
    printed.write_text(plain_yaml.dump(asked.record()))
    assert resolved_sweep(config=printed) == asked


def test_the_help_names_every_preset_and_the_data_sets_of_those_that_some_have() -> None:
    common, *special = preset_help().split("; ")
    assert not missing(["configs/", "paper", "quick (default)"], common)
    assert special == ["for fashion_mnist also convolutional, ensemble, reconstruction", "for mnist also halves"]
    assert preset_help() in " ".join(parser().format_help().split())


def test_the_papers_preset_is_table_2() -> None:
    config = resolved_sweep(preset="paper")
    spans = {key: dimension.log10 or dimension.choice for key, dimension in config.space.items()}
    assert spans == {
        "lr": (-3.5, -2.5),
        "batch_size": (128, 256, 512),
        "weight_decay": (-5.0, -3.5),
        "beta": (-3.0, 2.0),
        "tv_weight": (-3.0, -2.0),
    }
    trial = config.trial
    assert config.sampler == "random"
    assert trial.steps == 50_000 and trial.lr_schedule == "constant"
    assert (trial.bn_weight, trial.ce_weight, trial.stationarity_weight) == (0, 0, 1)
    assert (trial.classifier.name, trial.classifier.lr, trial.classifier.weight_decay) == ("mlp_bn", 0.01, 1e-4)
    assert (trial.dataset.per_class, trial.bn_mode, trial.lambda_policy) == (50, "train", "last_layer")


def test_flags_win_over_the_file_and_set_takes_a_key_out_of_the_space() -> None:
    config = resolved_sweep(
        flags={"trials": 3, "trial.steps": 600, "name": "mine"}, assignments={"lr": 1e-3, "classifier.hidden": 64}
    )
    assert (config.trials, config.trial.steps, config.name) == (3, 600, "mine")
    assert config.trial.lr == 1e-3 and "lr" not in config.space and "beta" in config.space
    assert config.trial.classifier.hidden == 64


def test_a_setting_fixed_by_set_leaves_the_first_trials_too() -> None:
    config = resolved_sweep(assignments={"lr": 0.01})
    assert "lr" not in config.space and config.first_trials and "lr" not in config.first_trials[0]


def test_trials_per_slot_grow_with_the_machine() -> None:
    arguments = {"dataset": "fashion_mnist", "preset": None, "config": None, "flags": {}, "assignments": {}}
    two, eight = (resolve(**arguments, slots=lambda _, n=n: n) for n in (2, 8))  # type: ignore[arg-type,misc]
    assert eight.trials == 4 * two.trials


def test_a_grid_is_tried_as_a_whole_unless_a_number_of_trials_is_named(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(tiny_sweep(sampler="grid", trials={"per_slot": 3})))
    assert resolved_sweep(config=path).trials == 5 * 2 * 5
    assert resolved_sweep(config=path, flags={"trials": 7}).trials == 7
    assert resolved_sweep(config=path, flags={"trials": 999}).trials == 50
    assert resolved_sweep(config=path, flags={"sampler": "random"}).trials == 6
    assert resolved_sweep(config=path, flags={"warm_start": "other"}).trials == 55


def test_the_file_of_one_trial_is_known_for_what_it_is() -> None:
    with pytest.raises(BadInput, match=r"trials/mnist.yaml: .* one trial .*`trial`; python -m gbc train --config"):
        resolved_sweep(config=CONFIGS / "trials" / "mnist.yaml")


@pytest.mark.parametrize(("steps", "every"), [(600, 150), (10, 2), (7, 1), (450, 150), (100, 25)])
def test_a_shorter_horizon_still_gets_reports_and_a_first_rung(steps: int, every: int) -> None:
    config = resolved_sweep(flags={"trial.steps": steps})
    assert config.trial.steps == steps and config.trial.report_every == every
    assert config.first_rung <= steps and config.first_rung % every == 0


def test_steps_and_reports_by_set_do_the_same() -> None:
    assert resolved_sweep(assignments={"steps": 60}) == resolved_sweep(flags={"trial.steps": 60})
    config = resolved_sweep(assignments={"steps": 60, "report_every": 20})
    assert config.trial.report_every == 20 and config.first_rung == 20
    with pytest.raises(BadInput, match=r"^--set steps, --set report_every: steps \(60\) .*\(25\); report_every=15 "):
        resolved_sweep(assignments={"steps": 60, "report_every": 25})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"lrr": {"uniform": [0.1, 0.2]}}}, "space: 'lrr'.*'lr'"),
        ({"space": {"seed": {"choice": [1, 2]}}}, "space: 'seed'"),
        ({"space": {"lr": {"log10": [-3.0, 1.0]}}}, "space: lr: 10.0 .*1"),
        ({"space": {"lr": {"log10": [-2.0, -3.0]}}}, "low end -2.0 .*high end -3.0"),
        ({"space": {"lr": {"log10": [-3, -2], "uniform": [0, 1]}}}, "space.lr: .*one of log10, uniform, int and choice"),
        ({"space": {"lr": {}}}, "space.lr: .*one of"),
        ({"space": {"lr": {"log10": [0, 5000]}}}, "space.lr: log10: .*-300.*300"),
        ({"space": {"batch_size": {"choice": [16, 32, 16]}}}, "space.batch_size: choice .*16"),
        ({"resources": {"cpus_per_trial": 1e-320}}, "cpus_per_trial: 1e-320 .*0.001"),
        ({"hang_limit": 1e-9}, "hang_limit: 1e-09 "),
        ({"preset": "<b>"}, "preset: '<b>'"),
        ({"objective": "ssim/coverage"}, "objective: .*mapping.*'ssim/coverage'"),
        ({"trial": None}, "sweep.yaml: trial: .*mapping"),
        ({"space": {"lr": {"log": [1, 2]}}}, "space.lr.log: "),
        ({"space": {"lr": {"log10": [-3, -2], "log": True}}}, "space.lr: log .*int"),
        ({"space": {"batch_size": {"int": [16]}}}, "space.batch_size.int"),
        ({"space": {"batch_size": {"int": [16, 32.5]}}}, "space.batch_size.int.*32.5"),
        ({"space": {"batch_size": {"int": [32, 16]}}}, "int: .*32 .*16"),
        ({"space": {"batch_size": {"int": [0, 16], "log": True}}}, "int: .*0 .*1"),
        ({"space": {"batch_size": {"int": [0, 16]}}}, "space: batch_size: 0 "),
        ({"space": {"batch_size": {"int": [1, 2**60]}}}, "space.batch_size: int"),
        ({"space": {"batch_size": {"int": [8, 64]}}, "first_trials": [{"batch_size": 7}]}, "batch_size: 7 .*8 and 64"),
        ({"space": {"batch_size": {"int": [8, 64]}}, "first_trials": [{"batch_size": 8.0}]}, "batch_size: 8.0 .*8 and 64"),
        ({"space": {"lr": {"log10": ["1e-4", -3]}}}, "'1e-4'.*quotes"),
        ({"space": {"batch_size": {"choice": []}}}, "choice .*empty"),
        ({"space": {"batch_size": {"choice": [128, 1.5]}}}, "space: batch_size: 1.5 .*integer"),
        ({"space": {"batch_size": {"uniform": [100.0, 200.5]}}}, "space: batch_size: 100.0 .*integer"),
        ({"objective": {"metric": "ssim-coverage"}}, "'ssim-coverage'.*'ssim/coverage'"),
        ({"objective": {"require": {"kkt/activ": 0.1}}}, "'kkt/activ'.*'kkt/active'"),
        ({"objective": {"require": {"kkt/active": "a lot"}}}, "objective.require.kkt/active: 'a lot'.*number"),
        (
            {"second_objective": {"metric": "kkt/rho", "require": {"kkt/active": 0.1}}, "scheduler": {"name": "none"}},
            "second_objective.require: .* objective.require",
        ),
        ({"scheduler": {"grace": 4}}, r"scheduler.grace \(4\).*trial.report_every \(3\)"),
        ({"scheduler": {"grace": 30}}, r"scheduler.grace \(30\).*trial.steps \(12\)"),
        ({"sampler": "bayes"}, "sampler: 'bayes'.*'tpe'.*'grid'"),
        ({"sampler": "cmaes", "space": {"batch_size": {"choice": [16, 32]}}}, "sampler cmaes .*range"),
        (
            {"sampler": "grid", "space": {k: {"uniform": [0.1, 0.2], "points": 1000} for k in ("lr", "beta", "ce_weight")}},
            "sampler grid: 1,000,000,000 .*`points`.*qmc",
        ),
        ({"space": {"lr": {"log10": [-3.0, -2.0], "points": 1}}}, "points: 1 .*2"),
        ({"space": {"batch_size": {"choice": [16, 32], "points": 2}}}, "points .*choice"),
        (
            {"second_objective": {"metric": "kkt/rho", "direction": "min"}, "scheduler": {"name": "median"}},
            "scheduler median .*two objectives.*asha, hyperband or none",
        ),
        (
            {"second_objective": {"metric": "ssim/coverage"}, "scheduler": {"name": "none"}},
            "both .*ssim/coverage",
        ),
        (
            {"second_objective": {"metric": "kkt/rho"}, "scheduler": {"name": "none"}, "sampler": "cmaes"},
            "sampler cmaes .*objective.*tpe",
        ),
        ({"trial": {**TINY, "device": "cuda:1"}}, "device cuda:1: .*set device to cuda.*CUDA_VISIBLE_DEVICES=1"),
        ({"trial": {**TINY, "device": "cuda"}, "resources": {"gpus_per_trial": 0.0}}, "device cuda .*gpus_per_trial is 0"),
        ({"warm_start_trials": 3}, "warm_start_trials .*sweep"),
        ({"warm_start": "other", "warm_start_trials": 0}, "warm_start_trials: 0 "),
        ({"first_trials": [{"lrr": 1e-3}]}, r"first_trials\[0\]: 'lrr'.*'lr'"),
        ({"first_trials": [{}, {"lr": 0.5}]}, r"first_trials\[1\].lr: 0.5 .*0.00"),
        ({"first_trials": [{"batch_size": 17}]}, r"first_trials\[0\].batch_size: 17 .*16"),
        ({"first_trials": {"lr": 1e-3}}, "first_trials: "),
        ({"max_steps": 0}, "max_steps: 0 "),
        ({"patience": 0}, "patience: 0 "),
        ({"name": "../up"}, "name: '../up'"),
        ({"trials": 0}, "yaml: trials: 0 "),
        ({"sampling": 0}, "'sampling'.*'sampler'"),
    ],
)
def test_a_faulty_sweep_is_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        SweepConfig.parse(tiny_sweep(**changes), "sweep.yaml")
    assert "\n" not in str(caught.value)


def test_unknown_datasets_get_a_suggestion_and_unknown_presets_those_there_are() -> None:
    with pytest.raises(BadInput, match=r"dataset 'fashion'.*'fashion_mnist'"):
        resolved_sweep(dataset="fashion")
    with pytest.raises(BadInput, match=r"preset 'papr' .*mnist.*: halves, paper, quick$"):
        resolved_sweep(dataset="mnist", preset="papr")
    with pytest.raises(BadInput, match=r"'halves' .*fashion_mnist.*: convolutional, ensemble, paper, quick, reconstruction$"):
        resolved_sweep(preset="halves")
    with pytest.raises(BadInput, match=r"mine\.yaml: "):
        resolved_sweep(config=Path("mine.yaml"))


def test_a_sweep_recorded_when_there_were_packs_opens_unless_it_used_them() -> None:
    record = SweepConfig.parse(tiny_sweep(resources={"concurrency": 2}), "test").record()
    assert "pack" not in record["resources"]
    old = {**record, "resources": {**record["resources"], "pack": 1}}
    assert SweepConfig.parse(old, "sweep.yaml").record() == record
    old["resources"]["pack"] = 4
    with pytest.raises(BadInput, match=r"^sweep\.yaml: resources: pack 4: "):
        SweepConfig.parse(old, "sweep.yaml")


def test_differences_ignore_budget_resources_and_device() -> None:
    config = SweepConfig.parse(tiny_sweep(), "a")
    budgets = {"trials": 99, "time_budget": 3.0, "max_steps": 99, "patience": 3}
    free = SweepConfig.parse(tiny_sweep(**budgets, resources={"concurrency": 1}), "b")
    assert config.differences(free) == {}
    other = SweepConfig.parse(tiny_sweep(seed=2), "c")
    assert config.differences(other) == {"seed": (1, 2)}
    two = SweepConfig.parse(
        tiny_sweep(second_objective={"metric": "kkt/rho", "direction": "min"}, scheduler={"name": "none"}), "e"
    )
    assert config.differences(two)["second_objective.metric"] == (None, "kkt/rho")
    assert "second_objective" not in config.differences(two)
    less = SweepConfig.parse(tiny_sweep(space={}), "d")
    assert "space.lr.log10" in config.differences(less)


@pytest.mark.parametrize(("device", "share"), [("cuda", "auto"), ("cuda:0", 0.5), ("auto", 0.0), ("cpu", 0.0)])
def test_a_device_that_trials_have_is_taken(device: str, share: float | str) -> None:
    config = tiny_sweep(trial={**TINY, "device": device}, resources={"gpus_per_trial": share})
    assert SweepConfig.parse(config, "test").trial.device == device


def test_a_resolved_sweep_survives_yaml() -> None:
    config = resolved_sweep(preset="paper")
    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True))
    assert SweepConfig.parse(yaml.safe_load(text), "again") == config


def test_dimensions_become_optunas_distributions() -> None:
    assert Dimension(log10=(-3.0, -2.0)).distribution() == FloatDistribution(1e-3, 1e-2, log=True)
    assert Dimension(uniform=(0.0, 2.0)).distribution() == FloatDistribution(0.0, 2.0)
    assert Dimension(int=(2, 64), log=True).distribution() == IntDistribution(2, 64, log=True)
    assert Dimension(choice=(1, 2)).distribution() == CategoricalDistribution((1, 2))


def test_a_grid_cuts_ranges_from_end_to_end_and_has_every_choice() -> None:
    assert Dimension(log10=(-3.0, -1.0), points=3).grid() == pytest.approx((1e-3, 1e-2, 1e-1))
    assert Dimension(uniform=(0.0, 2.0)).grid() == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert Dimension(choice=(16, 32)).grid() == (16, 32)
    assert Dimension(int=(2, 10)).grid() == (2, 4, 6, 8, 10) and Dimension(int=(1, 3)).grid() == (1, 2, 3)
    assert Dimension(int=(2, 32), log=True).grid() == (2, 4, 8, 16, 32) and Dimension(int=(1, 3)).grid_size == 3
    awkward = Dimension(log10=(-2.7, -1.9), points=7)  # 10^x rounds; the ends must stay inside
    assert all(awkward.distribution()._contains(value) for value in awkward.grid())


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_have_their_parts_of_a_sequence(log: bool) -> None:
    whole = Dimension(int=(1, 4), log=log)
    numbers = [whole.at(share / 1000) for share in range(1001)]
    assert numbers == sorted(numbers) and set(numbers) == {1, 2, 3, 4} and all(type(value) is int for value in numbers)
    # ln(1.5/0.5), ln(2.5/1.5), … of ln(4.5/0.5) with log; a quarter each without
    parts = [0.5, 0.232, 0.153, 0.114] if log else [0.25] * 4
    assert [numbers.count(value) / 1001 for value in (1, 2, 3, 4)] == pytest.approx(parts, abs=0.002)
    assert whole.holds(4) and not whole.holds(5) and not whole.holds(2.0) and not whole.holds(True)


def test_sampled_settings_are_laid_over_the_fixed_ones() -> None:
    trial = settle(TrialConfig(beta=3.0), {"lr": 0.5, "batch_size": 64}, seed=9)
    assert (trial.beta, trial.lr, trial.batch_size, trial.seed) == (3.0, 0.5, 64, 9)


def test_a_sweep_for_students_has_its_trials_train_them() -> None:
    """`tstr/cnn` costs a network at each report, so trials measure it only where the sweep asks."""
    assert resolved_sweep().trial.student_steps == 0
    assert resolved_sweep(flags=objective_flags("tstr/cnn")).trial.student_steps == 50
    assert resolved_sweep(flags=objective_flags("ssim/coverage,tstr/cnn")).trial.student_steps == 50
    assert resolved_sweep(flags=requirement_flags(["tstr/cnn=0.5"])).trial.student_steps == 50
    assert resolved_sweep(flags=objective_flags("tstr/cnn"), assignments={"student_steps": 120}).trial.student_steps == 120
    with pytest.raises(BadInput, match=r"tstr/cnn .*student_steps"):
        resolved_sweep(flags=objective_flags("tstr/cnn"), assignments={"student_steps": 0})
