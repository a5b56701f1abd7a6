from __future__ import annotations

from pathlib import Path

import pytest

from gbc.classifier_config import ClassifierConfig, DatasetConfig
from gbc.config import TrialConfig
from gbc.errors import BadInput
from gbc.settings import digest, flatten, load_yaml, parse_assignment
from tests.support import missing

TRIALS = Path(__file__).parents[2] / "configs" / "trials"


def parse(text: str, tmp_path: Path) -> TrialConfig:
    path = tmp_path / "trial.yaml"
    path.write_text(text)
    return TrialConfig.parse(load_yaml(path), path.name)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lr: '0.1'", ["lr: '0.1'", "quotes"]),
        ("lr: nan", ["lr: 'nan'", "finite"]),
        ("lr: '-inf'", ["lr: '-inf'", "finite"]),
        ("{steps: 60, report_every: 100}", ["steps (60)", "report_every (100)", "report_every=15 "]),
        ("lrr: 0.1", ["trial.yaml: 'lrr' is not a setting; did you mean 'lr'?"]),  # golden
        ("classifier: {hiden: 3}", ["'classifier.hiden'", "'hidden'"]),
        ("lr: 5", ["lr: 5", "equal to 1"]),
        ("batch_size: 1", ["batch_size: 1 ", "equal to 2"]),
        ("batch_size: 12.5", ["batch_size: 12.5", "integer"]),
        ("bn_mode: trian", ["bn_mode: 'trian'", "'train'", "'eval'"]),
        ("lr: .nan", ["lr: "]),
        ("steps: 10\nreport_every: 4", ["steps (10)", "report_every (4)"]),
        ("lambda_policy: given", ["lambda_values", "lambda_policy", "'given'"]),
        ("lambda_values: {1.weight: 1}", ["lambda_values", "lambda_policy", "'last_layer'"]),
        ("lambda_policy: given\nlambda_values: {1.weight: one}", ["lambda_values.1.weight: 'one'", "number"]),
        ("- 1", ["mapping", "list"]),
        ("a: [", ["YAML"]),
        ("dataset: {download: true}", ["dataset: download", "data_root"]),
        ("multipliers: free", ["multipliers", "generator", "pixels"]),
        ("candidates: 100", ["candidates", "generator", "pixels"]),
        ("reconstruction_weight: 1.0", ["reconstruction_weight", "multipliers", "free"]),
        ("lambda_min: 0.1", ["lambda_min", "multipliers", "free"]),
        ("classifier: [conv]", ["classifier: ", "mapping", "list"]),
        ("experts: {a: 1}", ["experts: ", "mapping", "list"]),
        ("learning_rate: 1", ["'learning_rate'", "'lr'"]),
        ("colour: 1", ["'colour'", "--dry-run"]),
    ],
)
def test_a_fault_is_one_line_that_names_key_and_mend(text: str, named: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"trial\.yaml: ") as caught:
        parse(text, tmp_path)
    assert not missing(named, caught.value)
    assert "\n" not in str(caught.value)


def test_faults_are_listed_a_line_each_up_to_ten(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        parse("lr: 5\nbatch_size: 1", tmp_path)
    assert [line.split()[1:3] for line in str(caught.value).splitlines()] == [["lr:", "5"], ["batch_size:", "1"]]
    with pytest.raises(BadInput) as caught:
        parse("\n".join(f"unknown{number}: 1" for number in range(12)), tmp_path)
    *faults, last = str(caught.value).splitlines()
    assert len(faults) == 10 and last.startswith("trial.yaml: ") and "2" in last


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
    with pytest.raises(BadInput, match=r"nowhere\.yaml"):
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
    with pytest.raises(BadInput, match="--set lr: 2"):
        TrialConfig().updated({"lr": 2}, "--set")
    with pytest.raises(BadInput, match=r"--set.*'lr.x'.*'lr'"):
        TrialConfig().updated({"lr.x": 2}, "--set")


def test_the_digest_changes_with_any_setting() -> None:
    base = DatasetConfig()
    assert base.digest() == DatasetConfig().digest()
    assert base.digest() != DatasetConfig(per_class=49).digest()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        ([3], ["classes: [3]", "two"]),
        ([], ["classes: []", "two"]),
        ([4, 5, 4], ["classes: [4, 5, 4]", "4 twice"]),
        ([0, -1], ["classes.1: -1", "equal to 0"]),
        ([0, "1"], ["classes.1: '1'", "text"]),
        ([0, 1.0], ["classes.1: 1.0", "integer"]),
        (3, ["classes: 3", "array"]),
    ],
)
def test_a_choice_of_classes_that_is_none_is_refused(classes: object, named: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        DatasetConfig.parse({"classes": classes}, "x.yaml")
    assert not missing(named, caught.value)


def test_a_choice_of_classes_can_be_a_list_and_is_a_key() -> None:
    config = DatasetConfig.parse({"classes": [5, 6]}, "x.yaml")
    assert config == DatasetConfig(classes=[5, 6]) and config.classes == (5, 6)
    assert hash(config) != hash(DatasetConfig(classes=(6, 5)))


def test_the_circle_has_two_parts() -> None:
    assert DatasetConfig.parse({"part": 2}, "x.yaml").part == 2
    with pytest.raises(BadInput, match=r"x\.yaml: part: 3 .*1.*2"):
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
    with pytest.raises(BadInput, match="KEY=VALUE"):
        parse_assignment(text)


@pytest.mark.parametrize("path", sorted(TRIALS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_trial_is_sound_and_says_how_to_run_it(path: Path) -> None:
    config = TrialConfig.parse(load_yaml(path), path.name)
    assert path.stem.startswith(config.dataset.name)
    assert f"python -m gbc train --config configs/trials/{path.name} --out" in path.read_text()


@pytest.mark.parametrize("factory", ["nets", ":f", "a:b:c", "a:", "../nets:f"])
def test_what_is_no_factory_is_said_so(factory: str) -> None:
    with pytest.raises(BadInput, match=r"factory: '.*' .*package\.module:factory"):
        ClassifierConfig.parse({"factory": factory}, "test")


def test_a_card_without_weights_is_refused() -> None:
    with pytest.raises(BadInput, match=r"card .*weights"):
        ClassifierConfig.parse({"card": "a.yaml"}, "test")
