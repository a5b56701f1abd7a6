"""Addresses, and that their passwords go nowhere."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml
from sqlalchemy.engine import make_url

from gbc.errors import BadInput
from records.addresses import fault_line, first_line, public, redacted, secrets, sqlite_url
from search.driver import resume_checks, sweep
from search.spec.config import SweepConfig
from search.spec.locations import Places
from search.tracking.client import address
from search.tracking.tracker import Tracker
from tests.search.conftest import tiny_sweep


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:pa55@db:5432/studies", "postgresql+psycopg://me@db:5432/studies"),
        ("postgresql+psycopg://me:p%40/5@db/studies", "postgresql+psycopg://me@db/studies"),
        ("postgresql+psycopg://me:pa55%40home@db/studies", "postgresql+psycopg://me@db/studies"),
        ("postgresql+psycopg://me:a pa55@db/my studies", "postgresql+psycopg://me@db/my studies"),
        ("postgresql+psycopg://me%40work:pa55/:#@[::1]:5432/studies", "postgresql+psycopg://me%40work@[::1]:5432/studies"),
        ("postgresql+psycopg://me:p@ss@db/studies", "postgresql+psycopg://***"),
        ("http://me:p@ss/word@db", "http://***"),
        ("sqlite:///mlruns/my%20file.db", "sqlite:///mlruns/my%20file.db"),
        ("sqlite:////data/50%25.db?timeout=5", "sqlite:////data/50%25.db?timeout=5"),
        ("postgresql+psycopg://me:pa55@db/studies?sslmode=require&password=pa55", "postgresql+psycopg://me@db/studies?sslmode=require"),
        ("postgresql+psycopg://db/studies", "postgresql+psycopg://db/studies"),
        ("http://me:pa55@tracking:5000/x", "http://me@tracking:5000/x"),
        ("s3://key:pa55@bucket/x?region=eu", "s3://bucket/x?region=eu"),
        ("s3://bucket/x?secret_key=pa55&region=eu", "s3://bucket/x?region=eu"),
        ("abfs://:pa55@account/x", "abfs://account/x"),
        ("/mnt/shared", "/mnt/shared"),
        ("10.0.0.1:6379", "10.0.0.1:6379"),
    ],
)  # fmt: skip
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert public(url) == shown
    assert fault_line(f"cannot open {url}", url) == f"cannot open {shown}"
    for secret in secrets(url):
        assert secret not in fault_line(f"cannot log in with {secret!r}", url)
    assert ("pa55" in url) == any("pa55" in secret for secret in secrets(url))
    assert public(public(url)) == shown and secrets(shown) == ()


@pytest.mark.parametrize("key", ["study_url", "tracking_uri", "storage"])
@pytest.mark.parametrize("url", ["postgresql://me:p@ss@db/x", "http://me:pass@db:port/x"])
def test_an_address_whose_password_cannot_be_told_is_refused(key: str, url: str) -> None:
    with pytest.raises(BadInput, match=rf"--{key.replace('_', '-')} .+://\*\*\*: .*%40") as caught:
        Places(**{key: url}).check()
    assert "ss" not in str(caught.value).removeprefix("--").partition(": ")[0].partition("://")[2]


@pytest.mark.parametrize("name", ["a b", "50%", "%41", "what?#"])
def test_the_address_of_a_file(name: str) -> None:
    for path in (Path("/data", name, "study.db"), Path("mlruns", name)):
        assert make_url(sqlite_url(path)).database == str(path)


def test_the_first_line_of_a_fault() -> None:
    url = "http://me:pa55@host"
    assert first_line(ValueError(f"\n  no answer from {url}/api\nTraceback"), url) == "no answer from http://me@host/api"
    assert first_line(ValueError(), url) == "ValueError"


def test_a_command_is_shown_without_passwords() -> None:
    command = [
        "--study-url",
        "postgresql://me:pa55@db/x",
        "--storage=s3://key:pa55@bucket/y",
        "--set",
        "lr=1e-3",
        "--name",
        "a",
    ]
    assert [redacted(argument) for argument in command] == [
        "--study-url", "postgresql://me@db/x", "--storage=s3://bucket/y", "--set", "lr=1e-3", "--name", "a",
    ]  # fmt: skip


def test_places_are_dumped_without_passwords_and_compared_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_password = {"study_url": "postgresql://me:pa55@db/x", "storage": "shared", "tracking_uri": "http://me:pa55@host"}
    config = SweepConfig.parse(tiny_sweep(places=with_password), "test")
    assert config.places.study_url == "postgresql+psycopg://me:pa55@db/x" and config.places.storage == str(tmp_path / "shared")
    for text in (str(config.record()), config.model_dump_json(), repr(config), str(config)):
        assert "pa55" not in text
    record = SweepConfig.parse(config.record(), "record")
    assert config.differences(record) == {}
    assert SweepConfig.parse(tiny_sweep(), "test").record().get("places") is None


def test_what_a_start_leaves_open_is_as_the_record_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    locations = {"address": "10.0.0.1:6379", "storage": "/mnt/shared", "tracking_uri": "http://host"}
    folder = sweep.sweep_folder("tiny")
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SweepConfig.parse(tiny_sweep(places=locations), "test").record()))

    def settled(**locations: str) -> Places:
        return resume_checks.settle_with_record(SweepConfig.parse(tiny_sweep(places=locations), "test"), set()).places

    assert settled().model_dump(exclude_none=True) == {"storage": "/mnt/shared", "tracking_uri": "http://host"}
    moved = settled(address="auto", tracking_uri="http://other")
    assert (moved.address, moved.tracking_uri, moved.storage) == ("auto", "http://other", "/mnt/shared")
    with pytest.raises(BadInput, match=r"places.storage: /mnt/shared .*/mnt/other"):
        settled(storage="/mnt/other")


def test_the_flag_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert address(SweepConfig.parse(tiny_sweep(), "test")) == "http://environment"
    assert address(SweepConfig.parse(tiny_sweep(places={"tracking_uri": "http://flag"}), "test")) == "http://flag"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert address(SweepConfig.parse(tiny_sweep(), "test")) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_server_that_is_not_there_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = SweepConfig.parse(tiny_sweep(places={"tracking_uri": "http://me:pa55@127.0.0.1:1"}), "test")
    with pytest.raises(BadInput, match=r"MLflow store http://me@127\.0\.0\.1:1: .*[Rr]efused") as caught:
        Tracker(config, {})
    assert "pa55" not in str(caught.value)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answers = f"127.0.0.1:{server.getsockname()[1]}"
        locations = {"address": answers, "study_url": "postgresql://me:pa55@127.0.0.1:1/x", "tracking_uri": f"http://{answers}"}
        (line,) = Places.parse(locations, "test").unreachable_servers()
    assert line.startswith("--study-url postgresql+psycopg://me@127.0.0.1:1/x: ") and line.endswith("Connection refused")
    assert list(Places(tracking_uri="sqlite:///mlflow.db", address="auto").unreachable_servers()) == []
