"""Servers that tests start for themselves, on free ports of this machine: PostgreSQL, MLflow, and one that speaks S3."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

_FOLDERS: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0]))


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres; None when there is none."""
    for folder in [*_FOLDERS[::-1], *map(Path, os.environ.get("PATH", "").split(os.pathsep))]:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


def _unprivileged() -> str | None:
    import pwd

    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return None


def why_no_postgres() -> str | None:
    """A reason to skip, or None."""
    if postgres_programs() is None:
        return "PostgreSQL's server is not installed (Debian's package postgresql)"
    if os.getuid() == 0 and (shutil.which("runuser") is None or _unprivileged() is None):
        return "PostgreSQL does not run as root, and there is no user postgres to run it"
    return None


NEEDS_POSTGRES: Final = [
    pytest.mark.postgres,
    pytest.mark.skipif(why_no_postgres() is not None, reason=why_no_postgres() or ""),
]


@dataclass(frozen=True)
class Postgres:
    """A server with one user, who needs a password."""

    port: int
    password: str
    stop: Callable[[], None]
    """Ends it as a crash would; `start` again."""
    start: Callable[[], None]

    def url(self, database: str, *, password: bool = False) -> str:
        secret = f":{self.password}" if password else ""
        return f"postgresql+psycopg://sweeper{secret}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres(folder: Path, *databases: str) -> Iterator[Postgres]:
    """A new server in `folder` with these databases, which belong to user `sweeper`."""
    reason = why_no_postgres()
    if reason:
        pytest.skip(reason)
    import psycopg

    programs, port, password = postgres_programs(), free_port(), secrets.token_hex(12)
    assert programs is not None
    # Its owner must be able to get there, and pytest's folders are its user's alone.
    owned_folder = Path("/tmp") / f"gbc-postgres-{os.getpid()}-{port}"
    owned_folder.mkdir(mode=0o700)
    data, secret = owned_folder / "data", owned_folder / "password"
    secret.write_text(password)
    prefix: list[str] = []
    if os.getuid() == 0:
        shutil.chown(owned_folder, "postgres")
        shutil.chown(secret, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*prefix, str(programs / "initdb"), "-D", str(data), "-U", "sweeper", "--pwfile", str(secret),
         "--auth", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale", "C"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []

    def session() -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=port, user="sweeper", password=password, dbname="postgres", autocommit=True
        )

    def takes_sessions() -> bool:
        try:
            session().close()
        except psycopg.OperationalError:  # its port is open before it is ready
            return False
        return True

    def start() -> None:
        options = ["-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={owned_folder}",
                   "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40"]  # fmt: skip
        with (folder / "postgres.log").open("ab") as log:
            running.append(
                subprocess.Popen(
                    [*prefix, str(programs / "postgres"), "-D", str(data), *options], stdout=log, stderr=log, cwd="/"
                )
            )
        wait_until(takes_sessions, running[-1], "PostgreSQL")

    def stop() -> None:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        subprocess.run([*prefix, "kill", "-INT", str(pid)], check=True)  # ends sessions and stops
        running[-1].wait(30)

    try:
        start()
        with session() as connection:
            for database in databases:
                connection.execute(f'CREATE DATABASE "{database}"'.encode())
        yield Postgres(port, password, stop, start)
    finally:
        if running and running[-1].poll() is None:
            stop()
        shutil.rmtree(owned_folder, ignore_errors=True)


@contextmanager
def mlflow_server(folder: Path, store: str, environment: Mapping[str, str], port: int | None = None) -> Iterator[str]:
    """An MLflow tracking server that keeps artifacts in `folder` and hands them through. Gives its URL."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with served(command, folder / "mlflow.log", {**os.environ, **environment, **quiet}, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """moto's server, which keeps objects in memory. Gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with served(command, folder / "s3.log", dict(os.environ), f"http://127.0.0.1:{port}/moto-api/"):
        yield port


@contextmanager
def served(command: list[str], log: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """A process that answers at `url`; it and its children are gone afterwards."""
    import psutil

    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, cwd=log.parent)
    try:
        wait_until(lambda: answers(url), process, " ".join(command[1:4]) + f", see {log}")
        yield
    finally:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        for pid in family:
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], server_name: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, f"{server_name} ended at once"
        assert time.monotonic() < end, f"{server_name} does not answer"
        time.sleep(0.1)
