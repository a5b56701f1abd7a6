"""Trials that train as one stack: each is a trial like any other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from gbc import checkpoint
from gbc.classifiers import pretrain
from gbc.config import TrialConfig
from gbc.data import datasets
from gbc.errors import DIVERGED, BadInput
from search.driver.resources import Machine
from search.files.paths import CHECKPOINT, LOG, PICTURE
from search.spec.config import Resources
from search.worker.packing import PackService
from search.worker.trial import Assignment, Row, rows
from tests.support.workplace import Workplace

Assign = Callable[..., Assignment]


@pytest.fixture
def assign(settings: TrialConfig, classifier_cache: Path, tmp_path: Path) -> Assign:
    pretrain.obtain(settings.classifier, datasets.load(settings.dataset), classifier_cache)

    def make(number: int, folder: str = "trials", acknowledged: int = 0, **changes: Any) -> Assignment:
        return Assignment(
            number=number, acknowledged=acknowledged, settings=settings.updated(changes, "test").model_dump(mode="json"),
            folder=str(tmp_path / folder / f"{number:04d}"), cache=str(classifier_cache), storage=None, threads=1, gpus=0.0,
            hang_limit=60.0, note=str(tmp_path / f"hang-{number}"),
        )  # fmt: skip

    return make


def take(service: PackService, assignment: Assignment, most: int = 99) -> list[Row]:
    """What its worker is told, which stops asking after `most` rows."""
    found: list[Row] = []
    while len(found) < most and (row := service.next(assignment["number"])) is not None:
        found.append(row)
    return found


def train(service: PackService, assignments: list[Assignment]) -> dict[int, list[Row]]:
    """All of them to their ends, a thread a worker."""
    found: dict[int, list[Row]] = {}

    def work(assignment: Assignment) -> None:
        found[assignment["number"]] = take(service, assignment)

    for assignment in assignments:
        service.join(assignment, None)
    workers = [threading.Thread(target=work, args=(assignment,)) for assignment in assignments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not any(worker.is_alive() for worker in workers)
    return found


def same(found: list[Row], expected: list[Row]) -> None:
    """Step by step, metric by metric, apart from what the machine says of itself."""
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        names = [name for name in theirs if not name.startswith(("time/", "system/"))]
        assert ours.keys() >= set(names)
        for name in names:
            if name.startswith(("loss/", "kkt/", "grad/", "margin/")):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-3), name  # sums in another order
            else:
                assert ours[name] == pytest.approx(theirs[name], abs=0.05), name  # which move by whole samples, 50 of them


def test_trials_in_a_pack_are_the_trials_alone(assign: Assign) -> None:
    """Other rates, weights, seeds and, in a stack of its own, another batch size: rows, checkpoints and pictures."""
    differing: list[dict[str, Any]] = [
        {"seed": 1, "lr": 1e-3}, {"seed": 2, "lr": 3e-3, "beta": 0.1}, {"seed": 3, "tv_weight": 0.2, "weight_decay": 0.01},
        {"seed": 4, "batch_size": 16},
    ]  # fmt: skip
    packed = [assign(number, **changes) for number, changes in enumerate(differing)]
    found = train(PackService(threads=1), packed)
    for number, changes in enumerate(differing):
        alone = assign(number, "alone", **changes)
        same(found[number], list(rows(alone)))
        ours, theirs = (checkpoint.load(Path(a["folder"]) / CHECKPOINT) for a in (packed[number], alone))
        assert ours.keys() == theirs.keys() and ours["trainer"]["step"] == theirs["trainer"]["step"] == 12
        assert {p.name for p in Path(packed[number]["folder"]).iterdir()} == {p.name for p in Path(alone["folder"]).iterdir()}
        assert (Path(packed[number]["folder"]) / PICTURE).stat().st_size > 1000


def test_nothing_is_saved_beyond_a_report_that_was_not_taken(assign: Assign) -> None:
    """As with a trial alone, which waits: the checkpoint of a trial that is stopped is that of its last report."""
    service, stopped, other = PackService(threads=1), assign(0), assign(1, seed=1)
    service.join(stopped, None)
    assert take(service, stopped, 1)[0]["step"] == 3
    found = train(service, [other])
    assert [row["step"] for row in found[1]] == [3, 6, 9, 12]
    assert checkpoint.load(Path(stopped["folder"]) / CHECKPOINT)["trainer"]["step"] == 3

    # Asked for again, it goes on where it stood.
    rest = take(service, stopped)
    same(rest, list(rows(assign(0, "alone")))[1:])


def test_a_trial_that_leaves_is_forgotten_and_the_others_go_on(assign: Assign) -> None:
    service, gone = PackService(threads=1), assign(0, steps=3000)
    service.join(gone, None)
    assert service.load() == 1
    take(service, gone, 1)
    service.leave(0)
    found = train(service, [assign(1), assign(2, seed=5)])
    assert [row["step"] for row in found[1]] == [row["step"] for row in found[2]] == [3, 6, 9, 12]
    assert service.next(0) is None
    assert checkpoint.load(Path(gone["folder"]) / CHECKPOINT)["trainer"]["step"] == 3


def test_a_trial_may_change_between_a_pack_and_a_worker_of_its_own(assign: Assign) -> None:
    whole = list(rows(assign(0, "alone")))
    for row in rows(assign(0)):
        if row["step"] == 6:
            break
    service = PackService(threads=1)
    service.join(assign(0, acknowledged=3), None)
    first = take(service, assign(0), 2)
    same(first, whole[1:3])  # the report of step 6 was saved, but nobody had seen it
    service.leave(0)
    same(list(rows(assign(0, acknowledged=9))), whole[3:])


def test_what_is_wrong_with_one_trial_is_said_of_that_one(assign: Assign) -> None:
    service = PackService(threads=1)
    diverging = assign(1, lr=1.0, beta=1e6, tv_weight=1e6, alpha_init=-50.0, delta=1e-3)
    found = train(service, [assign(0), diverging, assign(2, kkt_from=0.5), assign(3, device="cuda:7")])
    same(found[0], list(rows(assign(0, "alone"))))
    assert found[1][-1]["error"].startswith(DIVERGED)
    assert found[1][-1]["error"] in (Path(diverging["folder"]) / LOG).read_text()
    assert "losses of a pack cannot join in late" in found[2][-1]["error"]
    assert "device is 'cuda:7', but this machine has" in found[3][-1]["error"]


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "services", "concurrency", "share"),
    [
        ({"pack": 8}, 2, 0, 2, 16, (0.125, 0.0)),
        ({"pack": 8, "cpus_per_trial": 2.0}, 2, 0, 1, 8, (0.25, 0.0)),
        ({"pack": 16}, 16, 1, 1, 16, (1.0, 0.0)),
        ({"pack": 16}, 16, 4, 4, 64, (0.25, 0.0)),
        ({"pack": 16, "gpus_per_trial": 0.0}, 4, 1, 4, 64, (0.0625, 0.0)),
        ({"pack": 4, "concurrency": 6}, 2, 0, 2, 6, (0.3333, 0.0)),
    ],
)
def test_a_machine_has_a_pack_on_each_gpu_or_on_the_cpus_of_each_trial(
    resources: dict[str, Any], cpus: int, gpus: int, services: int, concurrency: int, share: tuple[float, float]
) -> None:
    machine = Machine.of(Resources.parse(resources, "test"), cpus=cpus, gpus=gpus)
    assert (machine.services, machine.concurrency, machine.share) == (services, concurrency, share)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"pack": 4, "gpus_per_trial": 0.5}, "--gpus-per-trial 0.5: a pack has a GPU for itself"),
        ({"pack": 4, "concurrency": 9}, "--concurrency 9: only 8 trials in packs of 4 fit"),
    ],
)
def test_packs_that_cannot_be_are_refused(resources: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Machine.of(Resources.parse(resources, "test"), cpus=2, gpus=2 if "gpus_per_trial" in resources else 0)


def test_packs_need_one_machine_and_room_on_the_gpu() -> None:
    asked = Resources.parse({"pack": 9}, "test")
    with pytest.raises(BadInput, match="--pack: trials are packed on one machine"):
        Machine.of_cluster(asked, [(8, 1)])
    machine = Machine.of(asked, cpus=8, gpus=1)
    with pytest.raises(BadInput, match=r"--pack 9: a trial takes 10\.0 GB .* 80\.0 GB are free; use at most 8"):
        machine.packed(asked, 10 * 10**9, 80 * 10**9)
    assert machine.packed(asked, 8 * 10**9, 80 * 10**9) == machine


@pytest.mark.sweep
def test_a_sweep_in_packs(place: Workplace) -> None:
    """Stopped early, its service killed on the way, and with no trace of either in what is recorded."""
    command = ("--config", place.file("packed"), "--trials", "5", "--pack", "3", "--concurrency", "3", "--steps", "42")
    process = place.start(*command)
    begun = place.wait_for(process, "step 6/42")
    assert "3 at a time on" in begun and "1 pack;" in begun
    for found in psutil.Process(process.pid).children(recursive=True):
        if found.name() == "ray::PackService" or "PackService" in " ".join(found.cmdline()):
            os.kill(found.pid, signal.SIGKILL)
            break
    else:
        pytest.fail("no service was found")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    place.check_records_agree("packed", 5)
    code, output = place.look("--check", "packed")
    assert code == 0, output


def test_a_service_that_nobody_asks_rests(assign: Assign) -> None:
    service = PackService(threads=1)
    train(service, [assign(0)])
    before = time.thread_time(), time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before[1] < 0.25
