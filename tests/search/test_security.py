"""Doors of a sweep to others: sockets, files in shared folders, and secrets in what it prints and keeps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import yaml

from gbc.errors import BadInput
from records.addresses import redacted
from search.driver.processes import private_folder
from search.files.shared_classifiers import node_cache
from search.run import main
from search.spec.locations import Places
from search.worker.watchdog import with_watchdog
from tests.search.conftest import tiny_sweep
from tests.support import ROOT
from tests.support.workplace import Workplace

CANARY: Final = "Canary5ecret"
VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "PGPASSWORD", "RAY_AUTH_TOKEN",
    "RAY_REDIS_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
)  # fmt: skip
LOOKED_UP: Final = f"s3://{CANARY}:key@bucket/x"
"""Its region is asked for on the network, for seconds."""
ADDRESSES: Final = {
    "address": (f"u:{CANARY}@h:1", f"ray://u:{CANARY}@h:1", f"redis://:{CANARY}@h:1", f"h:1?token={CANARY}"),
    "storage": (
        LOOKED_UP, f"s3://key:{CANARY}@bucket/x?region=eu", f"s3://bucket/x?secret_key={CANARY}&region=eu",
        f"abfs://:{CANARY}@account/x", f"fsspec+nothing://u:{CANARY}@h/x", f"file://u:{CANARY}@h/dev/null/x",
    ),
    "study_url": (
        f"postgresql://me:{CANARY}@127.0.0.1:1/db", f"postgresql://127.0.0.1:1/db?password={CANARY}",
        f"postgresql://me:p/{CANARY}@127.0.0.1:1/db", f"postgres://me:{CANARY}@[::1]:x/db", f"mysql://me:{CANARY}@h/db",
        f"me:{CANARY}@127.0.0.1:5432/db",
    ),
    "tracking_uri": (
        f"http://me:{CANARY}@127.0.0.1:1", f"http://me@127.0.0.1:1/?token={CANARY}", f"me:{CANARY}@127.0.0.1:1",
        f"postgresql://me:{CANARY}@127.0.0.1:1/db",
    ),
}  # fmt: skip
NOBODY: Final = 65534
FORMS: Final = ("flag", "joined", "misspelt", "file", "wrong place", "wrong kind", "set", "dry run", "json", "environment")


def files_with(text: str, *folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def command(form: str, key: str, value: str) -> list[str] | None:
    """Words of a command that gives the address in this way; None where there is no such way."""
    flag = f"--{key.replace('_', '-')}"
    in_file: dict[str, dict[str, Any]] = {
        "file": {"places": {key: value}},
        "wrong place": {key: value},
        "wrong kind": {"places": value},
    }
    if (form == "environment" and key != "tracking_uri") or (form != "flag" and value == LOOKED_UP):
        return None
    Path("sweep.yaml").write_text(yaml.safe_dump(tiny_sweep(**in_file.get(form, {}))))
    tiny = ["--config", "sweep.yaml"]
    if form in in_file:
        return [*tiny, "--dry-run"]
    if form == "environment":
        os.environ["MLFLOW_TRACKING_URI"] = value
        return tiny
    return {
        "flag": [flag, value, "--check", "none"] if key == "study_url" else [*tiny, flag, value, "--dry-run", "--json"],
        "joined": [*tiny, f"{flag}={value}", "--dry-run"],
        "misspelt": [f"{flag}s", value],
        "set": [*tiny, "--set", f"{key}={value}", "--dry-run"],
        "dry run": [*tiny, flag, value, "--dry-run"],
        "json": [*tiny, flag, value, "--dry-run", "--json", "--trials", value],
    }[form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.long
def test_no_address_shows_its_secret(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault of an address, given in every way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # by default it tries for minutes
    for key, values in ADDRESSES.items():
        for value in values:
            if (arguments := command(form, key, value)) is None:
                continue
            try:
                code: Any = main(arguments)
            except SystemExit as ended:
                code = ended.code
            shown = "".join(capsys.readouterr())
            assert code in (0, 2) and shown, arguments
            assert CANARY not in shown, (arguments, shown)


def test_the_secrets_of_the_environment_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)
        assert redacted(f"cannot log in with {CANARY}, or {CANARY!r}") == "cannot log in with ***, or '***'", name
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{CANARY}@proxy:3128")
    assert redacted(f"proxy refuses {CANARY}") == "proxy refuses ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open u:pa55@h:1/x", "cannot open ***@h:1/x"),
        ("error at (http://me:pa55@h:1/x): no", "error at (http://me@h:1/x): no"),
        ("{'password': 'pa55', 'user': 'me'}", "{'password': '***', 'user': 'me'}"),
        ("host=db password=pa55 user=me", "host=db password=*** user=me"),
        ("models:/gbc-fashion_mnist@champion at 12:30, me@host", "models:/gbc-fashion_mnist@champion at 12:30, me@host"),
        ("lr=0.1 token: none; sqlite:////a/b@c/mlflow.db", "lr=0.1 token: none; sqlite:////a/b@c/mlflow.db"),
    ],
)
def test_a_text_is_shown_without_its_secrets(text: str, shown: str) -> None:
    assert redacted(text) == shown == redacted(shown)


def distrustful() -> None:
    """In a new driver: it opens nothing to others, and looks for temporary files where it is told to."""
    os.umask(0o077)
    tempfile.tempdir = None


@pytest.mark.sweep
@pytest.mark.long
def test_a_sweep_is_closed_to_others_and_runs_where_names_are_unusual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME that can be written, umask 077, spaces and a foreign link in TMPDIR, a long working folder, secrets around."""
    folder = tmp_path / f"sweeps of ünï-tests, 100% {'long ' * 36}".strip()
    temporary, foreign = Path(tempfile.mkdtemp(prefix="a b ", dir="/tmp")), tmp_path / "foreign"
    for made in (folder, foreign):
        made.mkdir()
    temporary.chmod(0o1777)
    (temporary / "ray").symlink_to(foreign)  # Ray's own choice, which another user may make first
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from ray._raylet import GcsClient
    from ray.exceptions import AuthenticationError

    workplace = Workplace(folder, before=distrustful, fresh_workers=True)
    process = workplace.start("--config", workplace.file("closed", trials=1, scheduler={"name": "none"}))
    output = workplace.wait_for(process, "  step ")

    process.send_signal(signal.SIGSTOP)  # or it may end too soon
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = {
        (socket.laddr.ip, socket.laddr.port)
        for member in family for socket in member.net_connections("inet") if socket.status == psutil.CONN_LISTEN
    }  # fmt: skip
    assert len(listening) >= 4 and {address for address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not any("ray::IDLE" in " ".join(member.cmdline()) for member in family)  # nothing but what trials need
    (private,) = temporary.glob("gbc-*")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (private, private / "token")] == [0o700, 0o600]
    (session,) = (private / "r").glob("session_2*")
    port = next(session.glob("gcs_server_port_*")).read_text()
    with pytest.raises(AuthenticationError):
        GcsClient(address=f"127.0.0.1:{port}").internal_kv_keys(b"", namespace=None, timeout=10)
    if os.getuid() == 0 and shutil.which("setpriv"):
        another_user_runs_one_too(tmp_path / "theirs")
    process.send_signal(signal.SIGCONT)

    more, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in output + more and CANARY not in output + more, output + more
    workplace.check_records_agree("closed", 1)
    assert not list(foreign.iterdir()) and not list(temporary.glob("gbc-*"))
    assert files_with(CANARY, folder, temporary) == []
    (temporary / "ray").unlink()


def another_user_runs_one_too(folder: Path) -> None:
    """At the same time, in the same TMPDIR. This user may read all, or Python could not start, but writes only here."""
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    file = Workplace(folder).file("theirs", trials=1, scheduler={"name": "none"})
    rights = [f"--{kind}=+dac_read_search" for kind in ("inh-caps", "ambient-caps")]
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *rights]
    program = [sys.executable, str(ROOT / "search" / "run.py"), "--config", file, "--no-report", "--json"]
    done = subprocess.run([*become, *program], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and json.loads(done.stdout)["complete"] == 1, done.stderr
    assert {path.stat().st_uid for path in (folder / "mlruns").rglob("*")} == {NOBODY}


@pytest.mark.parametrize(("variable", "length"), [("TMPDIR", 5), ("TMPDIR", 200), ("RAY_TMPDIR", 5), ("RAY_TMPDIR", 200)])
def test_rays_folder_is_private_and_has_room_for_names_of_sockets(
    variable: str, length: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The kernel takes 107 bytes. The system's folder is used in place of a long one, but not against the user's word."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="x" * length))
    request.addfinalizer(lambda: shutil.rmtree(base))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(base))
    monkeypatch.setattr(tempfile, "tempdir", None)
    if variable == "RAY_TMPDIR" and length == 200:
        with pytest.raises(OSError, match=r"RAY_TMPDIR /tmp/x+\w+: too long .* name a folder of at most 28 bytes"):
            private_folder()
        return
    folder = private_folder()
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    assert folder.parent == (base if length == 5 else Path("/tmp")) and stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_home_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match=r"storage: .* its ~ leads to no home folder; write the path in full"):
        Places.parse({"storage": "~nobody-of-this-name/x"}, "test")


def test_a_report_of_a_hang_follows_no_link_and_is_private(tmp_path: Path) -> None:
    victim, report = tmp_path / "victim", tmp_path / "reports" / "hang"
    for _ in with_watchdog(iter([1]), 60, report):
        assert [stat.S_IMODE(path.stat().st_mode) for path in (report.parent, report)] == [0o700, 0o600]
    report.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        next(with_watchdog(iter([1]), 60, report))
    assert not victim.exists()


def test_on_a_node_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache = node_cache()
    assert cache == node_cache() and stat.S_IMODE(cache.stat().st_mode) == 0o700
    cache.chmod(0o777)
    with pytest.raises(BadInput, match="others may write there; let TMPDIR name another folder"):
        node_cache()
    cache.rmdir()
    cache.symlink_to(tmp_path)
    with pytest.raises(BadInput, match="belongs to another user"):
        node_cache()
    cache.unlink()
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(BadInput, match=r"/proc/gbc-classifiers-\d+: cannot be used: .*; let TMPDIR name another folder"):
        node_cache()
