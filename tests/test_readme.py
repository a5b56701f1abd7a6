"""Things that the documentation names exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from tests.support import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
MANUAL = "".join(
    (ROOT / "docs" / f"{page}.md").read_text()
    for page in (
        "search",
        "resume",
        "cluster",
        "compare",
        "export",
        "classifiers",
        "ensembles",
        "experiments",
        "leak",
        "distil",
    )
)


def commands() -> list[str]:
    text = README + MANUAL + (ROOT / "docs" / "own_model.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(python [^`]*--[^`]*)`", text)
    return [" ".join(command.split()) for command in [*lines, *inline] if command]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_tests_exist(page: Path) -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`([^`\s]+)`", page.read_text()):
        if re.fullmatch(r"test_[a-z0-9_]+", name):
            assert f"def {name}(" in tests, name
        elif re.fullmatch(r"(dashboards|gbc|records|search|tests|configs|docs)/[\w./-]+\.(py|yaml|md)", name):
            assert (ROOT / name).exists(), name


def test_every_promise_of_security_has_its_test() -> None:
    """Each row names its tests; another test checks that every name exists."""
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 7 and all("`test_" in row.rpartition("|")[0].rpartition("|")[2] for row in rows)


def test_every_cell_about_peers_has_its_evidence() -> None:
    """Another test checks that our tests and pages exist; pages of others are not fetched."""
    page = (ROOT / "docs" / "peers.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    defined = dict(re.findall(r"^\[([a-z-]+)\]: (https://\S+)$", page, flags=re.MULTILINE))
    used = set(re.findall(r"\]\[([a-z-]+)\]", page))
    assert len(rows) > 20 and {len(row) for row in rows} == {6} and used == defined.keys()
    for feature, *peers, ours in rows:
        bare = [cell for cell in peers if "][" not in cell and not cell.startswith("not known")]
        assert not bare and ("`tests/" in ours or ours.startswith("no")), feature


def test_named_functions_exist() -> None:
    names = re.findall(r"`(gbc(?:\.\w+)+)`", README)
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str) -> None:
    arguments = shlex.split(command)
    if arguments[0] == "make":
        assert re.search(rf"^{arguments[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif arguments[1:] in (["pictures.py"], ["train.py"]):
        pass  # files of the page, which tests/test_own_model_page.py runs
    elif arguments[0] in ("createdb", "export", "ray", "tensorboard", "wandb") or arguments[:2] in (
        ["mlflow", "ui"],
        ["mlflow", "server"],
    ):
        pass  # others' own
    elif arguments[0] == "sbatch":  # what follows the script is the driver's
        script = next(argument for argument in arguments if argument.endswith(".sh"))
        assert (ROOT / script).exists()
        importlib.import_module("search.run").parser().parse_args(arguments[arguments.index(script) + 1 :])
    elif arguments[:3] == ["python", "-m", "gbc"]:
        importlib.import_module("gbc.__main__").parser().parse_args(arguments[3:])
    else:
        assert arguments[0] == "python"
        module = arguments[1].removesuffix(".py").replace("/", ".")
        importlib.import_module(module).parser().parse_args(arguments[2:])


def test_the_yaml_of_the_manual_is_a_sweep(tmp_path: Path) -> None:
    from search.spec.resolve import resolve

    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", MANUAL, flags=re.DOTALL) if "class_names" not in block]
    assert len(blocks) == 3
    configs = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"readme-{number}.yaml"
        path.write_text(block)
        configs.append(resolve(dataset="fashion_mnist", preset=None, config=path, flags={}, assignments={}, slots=lambda _: 1))
    assert configs[0].trials == 50 and set(configs[0].space) == {"lr", "batch_size", "delta", "noise_dim"}
    assert configs[1].search_space.conditional and configs[1].constraints
    assert [spec.task for spec in configs[2].trial.classifiers()] == [0, 1, 0]


def test_the_card_of_the_manual_is_a_card(tmp_path: Path) -> None:
    from gbc.classifiers.custom import Card
    from gbc.settings import load_yaml

    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", MANUAL, flags=re.DOTALL) if "class_names" in block]
    (tmp_path / "net.yaml").write_text(block)
    card = Card.parse(load_yaml(tmp_path / "net.yaml"), "net.yaml")
    assert (card.shape, card.input_shape) == ((1, 28, 28), (3, 32, 32))


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # MLflow says so of itself when it is imported
def test_the_python_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported folder and the registered model that it names are made first."""
    from mlflow import MlflowClient

    from gbc import export
    from gbc.classifiers.architectures import Classifier, build
    from gbc.config import TrialConfig
    from gbc.data import datasets
    from gbc.training.generator import Generator
    from gbc.training.tasks import TrialInputs
    from search.spec.config import Objective
    from search.tracking import registry
    from tests.conftest import TINY

    settings = TrialConfig.parse(TINY, "test")
    generator = Generator(classes=10, shape=(1, 28, 28), noise_dim=8, width=16, channels=8)
    scores = {"ssim/nearest": 0.0, "ssim/coverage": 0.0, "tstr/1nn": 0.0}
    data = datasets.load(settings.dataset)
    phi = Classifier(build(settings.classifier, data.shape, 10), data.class_names, data.shape, 100)
    inputs = TrialInputs((phi,), ({},), (), data)
    export.write(
        tmp_path / "exports" / "fashion",
        generator.state_dict(),
        settings,
        inputs,
        scores,
        origin="Test.",
        picture=None,
        formats=["torch"],
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path / 'mlflow.db'}")
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("test", artifact_location=(tmp_path / "files").as_uri())).info.run_id
    registry.register(
        tmp_path / "exports" / "fashion", client_uri=uri, name="gbc-fashion_mnist", run_id=run, sweep="test", trial=0,
        objective=Objective(metric="ssim/coverage", direction="max"), score=0.5,
    )  # fmt: skip
    blocks = re.findall(r"```python\n(.*?)```", README + MANUAL, flags=re.DOTALL)
    programs = [block for block in blocks if "search.sweep(" not in block]  # tests/search/test_library.py runs one
    assert len(programs) == 3
    for program in programs:
        scope: dict[str, object] = {}
        exec(program, scope)
        assert scope["images"].shape == (3, 1, 28, 28)  # type: ignore[attr-defined]


def test_the_readme_is_a_front_door() -> None:
    assert len(README.splitlines()) <= 180
