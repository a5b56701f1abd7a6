"""The choice of tests that run, and shared fixtures: real images, a small classifier trained for real, a database server."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

from gbc.classifier_config import ClassifierConfig
from gbc.classifiers import pretrain
from gbc.classifiers.architectures import CLASSIFIERS, Classifier
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.data.datasets import ImageDataset
from gbc.metrics.scores import ReferenceSet
from tests.support.stores import never_wait_for_the_disk

if TYPE_CHECKING:
    from tests.support.servers import Postgres

TINY_CLASSIFIER = {"hidden": 24, "steps": 60, "lr": 0.1}
TINY = {
    "batch_size": 32,
    "width": 16,
    "channels": 8,
    "noise_dim": 8,
    "multiplier_width": 16,
    "steps": 12,
    "report_every": 3,
    "eval_per_class": 5,
    "bn_weight": 1.0,
    "ce_weight": 0.1,
    "beta": 0.01,
    "classifier": TINY_CLASSIFIER,
    "dataset": {"per_class": 10},
    "device": "cpu",
}
TURNS = 3
"""`make test` runs the long tests of each file for one commit of three."""


def pytest_configure() -> None:
    torch.set_num_threads(1)  # before any fixture trains: the last bits of a sum depend on how many share it
    never_wait_for_the_disk()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long-in-turn", action="store_true", help=f"of the long tests, those of one turn of {TURNS}")


def turn() -> int:
    """The number of the long tests' turn that a commit runs: its hash says it, so that a failure can be run again."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=8", "HEAD"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout, 16) % TURNS
    return 0  # a copy without Git's records


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--long-in-turn"):
        terminalreporter.write_line(f"long tests: turn {turn() + 1} of {TURNS} (make test-all runs all of them)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long-in-turn"):
        long = [item for item in items if "long" in item.keywords]
        files = sorted({item.path for item in long})  # whose tests share fixtures
        others = {item for item in long if files.index(item.path) % TURNS != turn()}
        config.hook.pytest_deselected(items=[*others])
        items[:] = [item for item in items if item not in others]
    items.sort(key=lambda item: "search" not in item.path.parts)  # files with sweeps first: small ones fill the end evenly
    missing = {}
    if full_data_root() is None:
        missing["full_data"] = "set GBC_DATA_ROOT to a torchvision root with FashionMNIST and MNIST"
    if not torch.cuda.is_available():
        missing["gpu"] = "there is no CUDA device"
    for item in items:
        for mark in missing.keys() & item.keywords.keys():
            item.add_marker(pytest.mark.skip(reason=missing[mark]))


def pytest_collection_finish() -> None:
    """Keep what is loaded out of garbage collection: each trial ends with a full one, over 700,000 objects of libraries."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def full_data_root() -> Path | None:
    root = os.environ.get("GBC_DATA_ROOT")
    return Path(root) if root else None


@pytest.fixture
def data_root() -> Path:
    root = full_data_root()
    assert root is not None
    return root


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> None:
    torch.set_num_threads(1)  # the test before may have set another number
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _migrations_are_read_once() -> Iterator[None]:
    """Keep the migration files of Optuna and MLflow: Alembic runs all of them whenever a store is opened, most of its time."""
    from alembic.util import pyfiles

    anew, once = pyfiles.load_module_py, functools.cache(pyfiles.load_module_py)

    def load(name: str, path: str) -> ModuleType:
        return once(name, path) if "versions" in Path(path).parts else anew(name, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfiles, "load_module_py", load)
        yield


@pytest.fixture(scope="session")
def settings() -> TrialConfig:
    """A trial that takes a second."""
    return TrialConfig.parse(TINY, "tests")


@pytest.fixture(scope="session")
def images(settings: TrialConfig) -> ImageDataset:
    return datasets.load(settings.dataset)


@pytest.fixture(scope="session")
def reference(images: ImageDataset) -> ReferenceSet:
    return ReferenceSet.of(images, "cpu")


@pytest.fixture(scope="session")
def classifier_cache(settings: TrialConfig, images: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("classifiers")
    pretrain.obtain(settings.classifier, images, cache)
    return cache


@pytest.fixture
def classifier(settings: TrialConfig, images: ImageDataset, classifier_cache: Path) -> Classifier:
    """Trained once, loaded anew for each test: a trainer leaves hooks on it."""
    network, _, _ = pretrain.obtain(settings.classifier, images, classifier_cache)
    return network


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """PostgreSQL with five databases, new for each module."""
    from tests.support.servers import postgres

    with postgres(tmp_path_factory.mktemp("postgres"), "studies", "mlflow", "empty", "new", "later") as database_server:
        yield database_server


@pytest.fixture(params=sorted(CLASSIFIERS))
def architecture(request: pytest.FixtureRequest) -> ClassifierConfig:
    """Every classifier there is."""
    return ClassifierConfig(name=request.param, hidden=12)
