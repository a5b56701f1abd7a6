"""Files here and far away: every operation on every kind of storage, two of them real ones of pyarrow's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gbc import checkpoint
from gbc.classifiers import pretrain
from gbc.config import TrialConfig
from gbc.data.samples import ImageDataset
from gbc.errors import BadInput
from search.driver.retention import CheckpointRetention, bytes_on_disk, read_history, stale_files
from search.files import shared_classifiers, storage
from search.files.paths import CHECKPOINT, HISTORY, PREVIOUS, files_folder, step_picture, trial_folder
from search.files.storage import Location, RemotePath, open_storage
from search.spec.config import SweepConfig
from search.spec.locations import Places
from search.worker.messages import Assignment, Message
from search.worker.trial import train
from tests.conftest import TINY
from tests.search.conftest import tiny_sweep
from tests.search.driver.test_retention import trial_record
from tests.search.worker.test_trial import plain
from tests.support.servers import s3_server
from tests.support.stores import lay_down_store
from tests.support.workplace import Workplace

KEY, SECRET = "AKIDEXAMPLE", "wJalr-secret"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket, with the key in it."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("moto.server")
    with s3_server(tmp_path_factory.mktemp("s3")) as port:
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        client.create_bucket(Bucket="sweeps")
        yield f"s3://{KEY}:{SECRET}@sweeps/some/where?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"


@pytest.fixture(params=["folder", "file-url", "fsspec", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "folder":
            return str(tmp_path / "store")
        case "file-url":
            return f"file://{tmp_path}/store"
        case "fsspec":
            return f"fsspec+local://{tmp_path}/store"
    bucket_url: str = request.getfixturevalue("s3")
    return bucket_url.replace("/some/where", f"/{tmp_path.name}")


@pytest.fixture
def location(url: str) -> Location:
    """The location that a sweep gets from its places."""
    storage_url = Places.parse({"storage": url}, "test").storage
    assert storage_url is not None
    return open_storage(storage_url)


def test_a_file_is_written_whole_read_listed_and_deleted(location: Location, url: str) -> None:
    assert isinstance(location, RemotePath) == url.startswith(("fsspec+", "s3"))
    storage.check_writable(location)
    assert storage.list_files(location) == [] and storage.list_folder(location) == []
    file = location / "trials" / "0007" / "last.ckpt"
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    for content in (b"x" * 3_000_000, b"y" * 10):
        storage.write(file, content)
        assert file.exists() and file.read_bytes() == content
    storage.write(location / "trials" / "0008" / "a.json", b"{}")
    assert [(str(path), size) for path, size in storage.list_files(location)] == [
        (str(file), 10), (str(location / "trials" / "0008" / "a.json"), 2),
    ]  # fmt: skip
    assert [folder.name for folder in storage.list_folder(location / "trials")] == ["0007", "0008"]
    with storage.local_copy(file) as path:
        assert path.name == "last.ckpt" and path.read_bytes() == b"y" * 10
    storage.move_file(file, file.with_name("previous.ckpt"))
    assert not file.exists() and file.with_name("previous.ckpt").read_bytes() == b"y" * 10
    file.unlink(missing_ok=True)
    storage.delete(location / "trials" / "0007")
    storage.delete(location / "trials" / "0007")
    assert [path.name for path, _ in storage.list_files(location)] == ["a.json"]


def test_of_two_checkpoints_one_is_always_whole(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    last, previous = location / CHECKPOINT, location / PREVIOUS
    for step in (1, 2, 3):
        storage.save_checkpoint(last, {"step": step, "weights": torch.arange(step)}, previous)
    assert checkpoint.load(last)["step"] == 3 and checkpoint.load(previous)["step"] == 2
    assert checkpoint.is_intact(last)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", killed)
        patch.setattr(RemotePath, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            storage.save_checkpoint(last, {"step": 4}, previous)
    assert checkpoint.load(last)["step"] == 3


def take(assignment: Assignment, url: str | None, count: int) -> list[Message]:
    messages = []
    for message in train(assignment, url):
        messages.append(message)
        if len(messages) == count:
            break
    return messages


@pytest.mark.long
def test_a_trial_goes_on_from_what_another_node_left(
    location: Location,
    url: str,
    settings: TrialConfig,
    images: ImageDataset,
    classifier_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The classifier is fetched, not trained; the numbers are those of an undisturbed trial."""
    folder = pretrain.classifier_folder(settings.classifier, images, classifier_cache)
    shared_classifiers.upload(location, folder)
    config = SweepConfig.parse(tiny_sweep(trial=settings.model_dump(mode="json"), places={"storage": url}), "test")
    home = files_folder(config)
    cache = tmp_path / "node"
    monkeypatch.setattr(shared_classifiers, "node_cache", lambda: cache)
    monkeypatch.setattr("gbc.classifiers.pretrain.train", lambda *_: pytest.fail("trained on a node"))
    trial_files = trial_folder(home, 7)
    folder_name, other_name = (
        str(path if isinstance(path, Path) else path.inside) for path in (trial_files, trial_files.with_name("0009"))
    )
    assignment = Assignment(
        number=7, acknowledged=0, settings=settings.model_dump(mode="json"), folder=folder_name, cache="",
        storage=config.places.storage, threads=1, gpus=0.0, hang_limit=60.0, hang_report="",
    )  # fmt: skip
    secret = config.places.storage
    reference = take(Assignment(**{**assignment, "folder": other_name}), secret, 99)  # type: ignore[typeddict-item]
    assert len(reference) == 4 and (cache / folder.name / "regime.json").exists()
    take(assignment, secret, 2)
    messages = take(Assignment(**{**assignment, "acknowledged": 6}), secret, 99)  # type: ignore[typeddict-item]
    assert plain(messages) == plain(reference)[2:]
    pictures = {step_picture(step) for step in (3, 6, 9, 12)}  # of which a driver would have taken some by now
    assert {path.name for path, _ in storage.list_files(trial_files)} - pictures == {CHECKPOINT, PREVIOUS, "samples.png"}

    # A damaged one gives way to the one before it.
    content = bytearray((trial_files / CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    storage.write(trial_files / CHECKPOINT, bytes(content))
    record, damaged = read_history(trial_files)
    assert record is not None and len(record.history) == 3 and [path.name for path in damaged] == [CHECKPOINT]
    assert plain(take(Assignment(**{**assignment, "acknowledged": 9}), secret, 99)) == plain(reference)[3:]  # type: ignore[typeddict-item]

    # What is not needed any more goes, and the history stays.
    entries = [trial_record(7, "stopped")]
    CheckpointRetention(home, config).delete_unneeded(entries)
    assert {path.name for path, _ in storage.list_files(trial_files)} - pictures == {HISTORY, "samples.png"}
    assert bytes_on_disk(tmp_path / "none", config) == sum(size for _, size in storage.list_files(home)) > 1000
    storage.write(trial_files / ".last.ckpt.1-part", b"")
    assert [path.name for path in stale_files(tmp_path / "none", config)] == [".last.ckpt.1-part"]


def test_a_classifier_is_not_there_before_all_of_it_is(
    location: Location, settings: TrialConfig, images: ImageDataset, classifier_cache: Path
) -> None:
    folder = pretrain.classifier_folder(settings.classifier, images, classifier_cache)
    with contextlib.suppress(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        written = []
        write = storage.write

        def some(path: Location, content: bytes) -> None:
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(path)
            write(path, content)

        patch.setattr(storage, "write", some)
        shared_classifiers.upload(location, folder)
    assert shared_classifiers.download(location, folder.name) is None
    shared_classifiers.upload(location, folder)
    downloaded = shared_classifiers.download(location, folder.name)
    assert downloaded is not None and downloaded["regime.json"] == (folder / "regime.json").read_bytes()


@pytest.mark.sweep
@pytest.mark.long
def test_a_sweep_with_its_files_in_a_bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed once. The key comes with the command, then from the environment, and is written nowhere."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lay_down_store(tmp_path)
    workplace = Workplace(tmp_path)
    url = s3.replace("/some/where", "/swept")
    file = workplace.file("bucket", trials=2, trial={**TINY, "steps": 24}, scheduler={"name": "none"}, keep=1)
    process = workplace.start("--config", file, "--storage", url, "--concurrency", "1")
    output = workplace.wait_for(process, "  step ")
    workplace.kill_everything(process)
    for path in tmp_path.rglob("*"):  # Ray's scratch files among them
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    code, more = workplace.run("--config", file, "--concurrency", "1")
    assert code == 0, more
    assert "picture: s3://sweeps/swept/bucket/trials/000" in more
    workplace.check_records_agree("bucket", 2)
    assert not (tmp_path / "mlruns" / "sweeps" / "bucket" / "trials").exists()
    kept = [path for path, _ in storage.list_files(open_storage(url) / "bucket") if path.name == CHECKPOINT]
    assert len(kept) == 1
    kept[0].unlink()  # trained again, with the same numbers
    code, repair_output = workplace.run_here("--check", "bucket", "--repair")
    assert code == 0 and "trained again" in repair_output, repair_output
    code, exported = workplace.export("--sweep", "bucket", "--out", "exported")
    assert code == 0, exported
    assert (tmp_path / "exported" / "samples.png").exists()
    assert all(secret not in output + more + repair_output + exported for secret in (SECRET, KEY))


def test_no_password_of_a_store_is_shown(s3: str) -> None:
    location = open_storage(s3) / "trials" / "0007"
    assert str(location) == "s3://sweeps/some/where/trials/0007" and SECRET not in repr(location)
    wrong = s3.replace("sweeps", "no-such-bucket")
    with pytest.raises(BadInput, match="s3://no-such-bucket/some/where") as caught:
        storage.check_writable(open_storage(wrong))
    assert SECRET not in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "s3://", "hdfs://"])
def test_what_pyarrow_does_not_know_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(BadInput, match=f"--storage {url}[: ]") as caught:
        storage.check_writable(open_storage(url))
    assert "\n" not in str(caught.value)
