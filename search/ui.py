"""MLflow's pages on this folder's sweeps, or optuna-dashboard on one study: `python search/ui.py`. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if __package__ in (None, ""):  # run as a file: our folder must not shadow top-level modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from gbc.command_line import Parser, guarded, whole
from search.spec import flags

if TYPE_CHECKING:
    from search.spec.config import SweepConfig

_HOST: Final = "127.0.0.1"
_PORTS: Final = {"mlflow": 5000, "optuna": 8080}
_FURTHER: Final = 50  # ports to try
_PATIENCE: Final = 120.0  # seconds


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="python search/ui.py", description=__doc__.splitlines()[0], clean=flags.without_secrets)
    cli.add_argument("--port", type=whole, help="default: 5000, for optuna-dashboard 8080, or the next that is free")
    cli.add_argument("--sweep", metavar="NAME", help="link to this sweep alone")
    cli.add_argument("--optuna", action="store_true", help="optuna-dashboard on the study of --sweep (default: the latest)")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 ended by Ctrl-C, 1 the server failed, 2 bad input."""
    arguments = parser().parse_args(argv)
    return guarded(lambda: _until_interrupted(arguments), flags.without_secrets)


def _until_interrupted(arguments: argparse.Namespace) -> int:
    # A script's shell starts what it leaves in the background deaf to Ctrl-C, and Python leaves it so.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _study_pages(arguments) if arguments.optuna else _mlflow_pages(arguments)
    except KeyboardInterrupt:
        return 0


def _mlflow_pages(arguments: argparse.Namespace) -> int:
    from gbc.errors import BadInput
    from records.addresses import public
    from records.mlflow_store import default_address, missing
    from search.tracking import relocation
    from search.tracking.client import experiments

    stores = _by_store(_sweeps(arguments.sweep))
    wanted = [*stores] if arguments.sweep else [default_address(), *stores]
    uri = next((store for store in wanted if not missing(store)), wanted[0])  # all sweeps of a folder may be on servers
    sweeps = stores.pop(uri, [])
    if uri.startswith("http"):
        _say_links(sweeps, uri)
        _say_elsewhere(stores)
        return 0
    if missing(uri):
        raise BadInput(f"no MLflow store here ({public(uri)}); start a sweep first, or set MLFLOW_TRACKING_URI")
    if moved := relocation.moved(uri):
        name = next((sweep.name for sweep in sweeps), "NAME")
        print(f"note: {moved}; `python search/run.py --check {name} --repair` sets the addresses right", flush=True)
    if not uri.startswith("sqlite:"):
        experiments(uri)  # creates what tables there are not: MLflow's server would, without our lock
    port = _port(arguments.port, _PORTS["mlflow"])
    command = ["mlflow", "server", "--backend-store-uri", uri, "--host", _HOST, "--port", str(port), "--workers", "1"]
    # Without the part that runs jobs it starts in a quarter of the time.
    quick = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with _Server(["-m", *command], quick) as server:
        links = _links(sweeps, uri)  # while it starts: this finds a store of another MLflow, too
        server.wait(f"http://{_HOST}:{port}/health")
        _say(f"MLflow on http://{_HOST}:{port}   (Ctrl-C ends it)", [(n, f"http://{_HOST}:{port}{path}") for n, path in links])
        _say_elsewhere(stores)
        return server.last()


def _study_pages(arguments: argparse.Namespace) -> int:
    from gbc.errors import BadInput
    from records.addresses import sqlite_url
    from records.paths import STUDY_FILE, where_sweeps_are
    from records.study import SETTINGS
    from search.files.paths import sweep_folder
    from search.spec.faults import readable
    from search.study.store import study_of

    if importlib.util.find_spec("optuna_dashboard") is None:
        raise BadInput("--optuna needs optuna-dashboard; pip install '.[dashboard]'")
    sweeps = _sweeps(arguments.sweep)
    if not sweeps:
        raise BadInput(f"no sweep here; {where_sweeps_are()}")
    latest = max(sweeps, key=lambda config: sweep_folder(config.name).stat().st_mtime)
    folder = sweep_folder(latest.name)
    if latest.places.study_url:
        with readable():
            if SETTINGS not in study_of(latest, folder).attributes():  # else optuna-dashboard would create the tables
                raise BadInput(f"sweep {latest.name} has not begun yet")
    url = latest.places.study_url or sqlite_url((folder / STUDY_FILE).resolve())
    port = _port(arguments.port, _PORTS["optuna"])
    start = f"import optuna_dashboard, sys; optuna_dashboard.run_server(sys.argv[1], host={_HOST!r}, port={port})"
    with _Server(["-c", start, url], {}) as server:
        server.wait(f"http://{_HOST}:{port}/dashboard/")
        _say(
            f"optuna-dashboard on http://{_HOST}:{port}   (Ctrl-C ends it)", [(latest.name, f"http://{_HOST}:{port}/dashboard")]
        )
        return server.last()


def _sweeps(name: str | None) -> list[SweepConfig]:
    """The settings of the sweep that is asked for, or of all whose record can be read; a line names each other one."""
    from gbc.errors import BadInput
    from search.files.paths import existing_sweep, recorded_config, sweep_folder, sweep_names

    if name:
        return [recorded_config(existing_sweep(name))]
    readable = []
    for sweep in sweep_names():
        try:
            readable.append(recorded_config(sweep_folder(sweep)))
        except BadInput as fault:
            reason = flags.without_secrets(str(fault).splitlines()[0])
            print(f"note: sweep {sweep} is left out: {reason}", flush=True)
    return readable


def _by_store(sweeps: Sequence[SweepConfig]) -> dict[str, list[SweepConfig]]:
    """The sweeps of each MLflow store. Of the usual one the environment may know a password, which is on no record."""
    from records.addresses import public
    from records.mlflow_store import default_address
    from search.tracking.client import address

    usual = default_address()
    stores: dict[str, list[SweepConfig]] = {}
    for config in sweeps:
        uri = address(config)
        stores.setdefault(usual if public(uri) == public(usual) else uri, []).append(config)
    return stores


def _say_links(sweeps: Sequence[SweepConfig], uri: str) -> None:
    """To a server that runs already."""
    from records.addresses import public

    shown = public(uri)
    _say(f"MLflow on {shown}", [(name, f"{shown}{path}") for name, path in _links(sweeps, uri)])


def _say_elsewhere(stores: Mapping[str, Sequence[SweepConfig]]) -> None:
    """Print the addresses or commands for the sweeps in other stores; a server that does not answer does not stop the rest."""
    from gbc.errors import BadInput
    from records.addresses import public

    for uri, sweeps in stores.items():
        if uri.startswith("http"):
            try:
                _say_links(sweeps, uri)
            except BadInput as fault:
                print(f"note: {fault}", flush=True)
        else:
            commands = [(sweep.name, f"python search/ui.py --sweep {sweep.name}") for sweep in sweeps]
            _say(f"in another store, {public(uri)}", commands)


def _links(sweeps: Sequence[SweepConfig], uri: str) -> list[tuple[str, str]]:
    """Name and path of the view of each sweep that the store knows."""
    from records.mlflow_store import experiment_name
    from search.tracking import ui_view
    from search.tracking.client import experiments

    known = experiments(uri)
    return [
        (config.name, ui_view.path(config, known[experiment_name(config.dataset)]))
        for config in sweeps
        if experiment_name(config.dataset) in known
    ]


def _say(head: str, links: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in links), default=0)
    print("\n".join([head, *(f"  {name:{width}}  {link}" for name, link in links)]), flush=True)


def _port(wanted: int | None, usual: int) -> int:
    """The port that is wanted, or the first free one from the usual one on.

    Raises:
        BadInput: the wanted one is taken, or none is free.
    """
    from gbc.errors import BadInput

    for port in [wanted] if wanted is not None else range(usual, usual + _FURTHER):
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((_HOST, port))
        except (OSError, OverflowError) as fault:
            if wanted is not None:
                raise BadInput(f"--port {wanted}: cannot be used: {getattr(fault, 'strerror', None) or fault}") from None
            continue
        if port != (wanted or usual):
            print(f"port {usual} is taken; using {port}", flush=True)
        return port
    raise BadInput(f"no port from {usual} to {usual + _FURTHER - 1} is free; name one with --port")


class _Server:
    """A server of Python's, in a process of its own that ends with the context."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it is open as long as the server runs)
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            self._process.kill()
        self._log.close()

    def wait(self, url: str) -> None:
        """Until it answers.

        Raises:
            BadInput: it ended before, or says nothing for minutes.
        """
        from gbc.errors import BadInput

        end = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(url, timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise BadInput(f"the server did not start: {self._last_line()}")

    def last(self) -> int:
        """Wait for its end, which is a failure: it is ended by a signal otherwise."""
        self._process.wait()
        print(f"the server ended: {self._last_line()}", file=sys.stderr)
        return 1

    def _last_line(self) -> str:
        from records.addresses import redacted

        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return redacted(lines[-1]) if lines else f"exit code {self._process.poll()}"


if __name__ == "__main__":
    sys.exit(main())
