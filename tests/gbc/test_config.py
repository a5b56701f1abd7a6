from __future__ import annotations

from pathlib import Path

import pytest

from gbc.config import DatasetConfig, TrialConfig
from gbc.errors import BadInput
from gbc.settings import digest, flatten, load_yaml, parse_assignment

TRIALS = Path(__file__).parents[2] / "configs" / "trials"


def parse(text: str, tmp_path: Path) -> TrialConfig:
    path = tmp_path / "trial.yaml"
    path.write_text(text)
    return TrialConfig.parse(load_yaml(path), path.name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: '0.1'", "trial.yaml: lr: '0.1' is text, not a number; remove the quotes"),
        ("lrr: 0.1", "trial.yaml: 'lrr' is not a setting; did you mean 'lr'?"),
        ("classifier: {hiden: 3}", "trial.yaml: 'classifier.hiden' is not a setting; did you mean 'hidden'?"),
        ("lr: 5", "trial.yaml: lr: 5 should be less than or equal to 1"),
        ("batch_size: 1", "trial.yaml: batch_size: 1 should be greater than or equal to 2"),
        ("batch_size: 12.5", "trial.yaml: batch_size: 12.5 should be a valid integer"),
        ("bn_mode: trian", "trial.yaml: bn_mode: 'trian' should be 'train' or 'eval'"),
        ("lr: .nan", "trial.yaml: lr: "),
        ("steps: 10\nreport_every: 4", "trial.yaml: steps (10) must be a multiple of report_every (4)"),
        (
            "lambda_policy: given",
            "trial.yaml: lambda_values belong to lambda_policy 'given' (it is 'given'): set both or neither",
        ),
        ("lambda_values: {1.weight: 1}", "lambda_values belong to lambda_policy 'given' (it is 'last_layer')"),
        ("lambda_policy: given\nlambda_values: {1.weight: one}", "lambda_values.1.weight: 'one' should be a valid number"),
        ("- 1", "trial.yaml: expected a mapping of settings, found a list"),
        ("a: [", "trial.yaml: not valid YAML: "),
        ("dataset: {download: true}", "trial.yaml: dataset: download needs data_root"),
        ("multipliers: free", "free multipliers and candidates are numbers of fixed images: set generator to pixels"),
        ("candidates: 100", "set generator to pixels"),
        ("reconstruction_weight: 1.0", "need free multipliers: set multipliers to free"),
        ("lambda_min: 0.1", "need free multipliers: set multipliers to free"),
        ("classifier: [conv]", "trial.yaml: classifier: expected a mapping of settings, found a list"),
        ("experts: {a: 1}", "trial.yaml: experts: expected a list, found a mapping"),
        ("learning_rate: 1", "'learning_rate' is not a setting; did you mean 'lr'?"),
        ("colour: 1", "'colour' is not a setting; `python search/run.py --dry-run` prints all that are"),
    ],
)
def test_a_fault_is_one_line_that_names_key_and_mend(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faults_are_listed_a_line_each_up_to_ten(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        parse("lr: 5\nbatch_size: 1", tmp_path)
    assert [line.partition(" should")[0] for line in str(caught.value).splitlines()] == [
        "trial.yaml: lr: 5", "trial.yaml: batch_size: 1",
    ]  # fmt: skip
    with pytest.raises(BadInput) as caught:
        parse("\n".join(f"unknown{number}: 1" for number in range(12)), tmp_path)
    *faults, last = str(caught.value).splitlines()
    assert len(faults) == 10 and last == "trial.yaml: and 2 more faults"


def test_a_word_stands_for_a_data_set_or_a_classifier(tmp_path: Path) -> None:
    config = parse("dataset: mnist\nclassifier: conv\nexperts: [{classifier: 'nets:net'}]\nlr: 1e-3\nsteps: 1e3", tmp_path)
    assert (config.dataset.name, config.classifier.name, config.lr, config.steps) == ("mnist", "conv", 1e-3, 1000)
    assert config.experts[0].classifier.factory == "nets:net"
    again = config.updated({"dataset.per_class": 5}, "--set").updated({"dataset": "fashion_mnist"}, "--set")
    assert (again.dataset.name, again.dataset.per_class) == ("fashion_mnist", 5)


def test_lambda_may_be_given_by_number(tmp_path: Path) -> None:
    config = parse("lambda_policy: given\nlambda_values: {1.weight: 1, 3.bias: 0.5}", tmp_path)
    assert config.lambda_values == {"1.weight": 1.0, "3.bias": 0.5}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml: no such file"):
        load_yaml(tmp_path / "nowhere.yaml")


def test_yaml_json_and_model_agree(tmp_path: Path) -> None:
    config = parse("lr: 1.0e-4\nsteps: 600\nclassifier: {hidden: 64}", tmp_path)
    again = TrialConfig.parse(config.model_dump(mode="json"), "again")
    assert again == config
    assert config.lr == 1e-4 and config.classifier.hidden == 64


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrialConfig().lr = 0.1  # type: ignore[misc]


def test_updated_reaches_into_nested_settings_and_checks_them() -> None:
    config = TrialConfig().updated({"classifier.hidden": 7, "lr": 0.5}, "--set")
    assert (config.classifier.hidden, config.lr) == (7, 0.5)
    with pytest.raises(BadInput, match=r"--set lr: 2 should be"):
        TrialConfig().updated({"lr": 2}, "--set")
    with pytest.raises(BadInput, match=r"'lr' has no parts"):
        TrialConfig().updated({"lr.x": 2}, "--set")


def test_the_digest_changes_with_any_setting() -> None:
    base = DatasetConfig()
    assert base.digest() == DatasetConfig().digest()
    assert base.digest() != DatasetConfig(per_class=49).digest()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([3], "classes: [3] must name at least two classes, for example [0, 1]"),
        ([], "classes: [] must name at least two classes"),
        ([4, 5, 4], "classes: [4, 5, 4] names class 4 twice"),
        ([0, -1], "classes.1: -1 should be greater than or equal to 0"),
        ([0, "1"], "classes.1: '1' is text, not a number"),
        ([0, 1.0], "classes.1: 1.0 should be a valid integer"),
        (3, "classes: 3 should be a valid array"),
    ],
)
def test_a_choice_of_classes_that_is_none_is_refused(classes: object, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        DatasetConfig.parse({"classes": classes}, "x.yaml")
    assert message in str(caught.value)


def test_a_choice_of_classes_can_be_a_list_and_is_a_key() -> None:
    config = DatasetConfig.parse({"classes": [5, 6]}, "x.yaml")
    assert config == DatasetConfig(classes=[5, 6]) and config.classes == (5, 6)
    assert hash(config) != hash(DatasetConfig(classes=(6, 5)))


def test_the_circle_has_two_parts() -> None:
    assert DatasetConfig.parse({"part": 2}, "x.yaml").part == 2
    with pytest.raises(BadInput, match=r"x\.yaml: part: 3 should be 1 or 2"):
        DatasetConfig.parse({"part": 3}, "x.yaml")


def test_flatten_names_nested_keys_with_dots() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps=1e3", 1000),
        ("lr=1e-4", 1e-4),
        ("steps=10", 10),
        ("bn_mode=eval", "eval"),
        ("dataset.download=true", True),
        ("data_root=", None),
    ],
)
def test_assignments_on_the_command_line_take_numbers_as_people_write_them(text: str, expected: object) -> None:
    key, value = parse_assignment(text)
    assert key == text.partition("=")[0] and value == expected


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_an_assignment_needs_a_key_and_a_value(text: str) -> None:
    with pytest.raises(BadInput, match="expected KEY=VALUE"):
        parse_assignment(text)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "trials").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_file_in_configs_trials_is_a_trial(path: Path) -> None:
    config = TrialConfig.parse(load_yaml(path), path.name)
    assert path.stem.startswith(config.dataset.name)


@pytest.mark.parametrize("path", sorted(TRIALS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_trial_is_sound_and_says_how_to_run_it(path: Path) -> None:
    config = TrialConfig.parse(load_yaml(path), path.name)
    assert path.stem.startswith(config.dataset.name)
    assert f"python -m gbc train --config configs/trials/{path.name} --out" in path.read_text()
