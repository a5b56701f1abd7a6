"""Ray's side of where trials run: a Ray of our own on this machine, or a cluster that others started and that we only join."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gbc.errors import BadInput

_ROOT: Final = Path(__file__).resolve().parents[2]
_KNOCK: Final = 10.0  # seconds
_TOKEN: Final = "token"
_AUTHENTICATION: Final = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

UNUSED: Final = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's node that start a dashboard's server (without pages too), an autoscaler and a reader of logs.

They take a second of CPU each, and Ray waits for the first. A sweep asks none of them, and Ray has no switch for them.
"""


def quiet_environment() -> None:
    """Set the environment variables that Ray must find before it is imported."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",  # no panels of Ray's own
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="1",
        RAY_prestart_worker_first_driver="0",  # trials start workers of their own; a spare one for each CPU would be waste
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial's last word has no metrics
        TUNE_GLOBAL_CHECKPOINT_S="86400",  # Ray's own record is never read
        PYTHONPATH=os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])),
    )


def start(cpus: int, gpus: int, folder: Path) -> None:
    """Start Ray on this machine, for this process alone; it keeps its logs, its sockets and its token in `folder`."""
    node: Any = importlib.import_module("ray._private.node")
    for method in UNUSED:
        setattr(node.Node, method, lambda *_, **__: None)
    with _closed_to_others(folder / _TOKEN):
        _init(
            address="local",  # or Ray would join a cluster that happens to run on this machine
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            _temp_dir=str(folder / "r"),  # Ray opens this one to all users
        )


@contextmanager
def _closed_to_others(token: Path) -> Iterator[None]:
    """Ray that is started meanwhile listens on 127.0.0.1 alone, and answers only to who knows the token in this new file.

    Ray asks for a token by itself, but takes one that it keeps in a file which other users may read; and it listens on the
    machine's outer address, unless it believes that the system knows no clusters.
    """
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    raylet: Any = importlib.import_module("ray._raylet")
    constants: Any = importlib.import_module("ray._private.ray_constants")
    clusters, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    known = {name: os.environ.pop(name) for name in _AUTHENTICATION if name in os.environ}
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    raylet.AuthenticationTokenLoader.instance().reset_cache()  # of an earlier sweep of this process
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name in _AUTHENTICATION:
            os.environ.pop(name, None)
        os.environ.update(known)


def join(address: str, factories: Iterable[str] = ()) -> list[tuple[float, float]]:
    """Join the cluster at `auto` or HOST:PORT, once, and give (CPUs, GPUs) of each of its nodes.

    Nodes get our packages, and the modules of `factories` (package.module:name), from here; they need the dependencies alone.

    Raises:
        BadInput: there is no cluster, it cannot be joined, or this machine is no node of it.
    """
    quiet_environment()
    import ray

    if not ray.is_initialized():
        if address != "auto":
            _knock(address)
        modules = [*(str(_ROOT / name) for name in ("gbc", "records", "search")), *_modules(factories)]
        try:
            _init(address=address, runtime_env={"py_modules": modules})
        except (ConnectionError, RuntimeError, ValueError, OSError) as fault:
            reason = " ".join(str(fault).split())[:200]
            raise BadInput(
                f"--address {address}: cannot be joined: {reason} "
                "(this machine must be a node of the cluster: `ray start --address HOST:PORT --num-cpus 0`)"
            ) from None
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resource.get("CPU", 0.0), resource.get("GPU", 0.0)) for resource in resources]


def leave() -> None:
    """Stop the Ray that `start` started; of a cluster, only let go."""
    import ray

    # A trial that failed leaves cycles with handles of its actor. If another thread collected them amid the shutdown, a handle
    # would speak to a core that is gone, and that ends the process with exit code 1 before the sweep has said its last word.
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _init(**options: Any) -> Any:
    import ray

    # What raylets say of each other, and of their own death, is for their logs. Ray prints it amid our lines, where `--json`
    # prints too, and has no switch for it.
    worker: Any = importlib.import_module("ray._private.worker")
    worker.print_to_stdstream = lambda *_, **__: None

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _our_answer_to(signal.SIGTERM):
        return ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


@contextmanager
def _our_answer_to(number: signal.Signals) -> Iterator[None]:
    """Afterwards the process answers a signal as before: Ray's C++ aborts it, and Python's `signal` is for the main thread."""
    libc, answer = ctypes.CDLL(None), ctypes.create_string_buffer(1024)  # more than any system's struct sigaction
    known = libc.sigaction(int(number), None, answer) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaction(int(number), answer, None)


def _knock(address: str) -> None:
    """Ray would wait without an end for somebody to answer, and try the wrong token again and again."""
    from ray.exceptions import AuthenticationError, RpcError

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
    except (OSError, OverflowError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise BadInput(f"--address {address}: nobody answers there: {reason}") from None
    raylet: Any = importlib.import_module("ray._raylet")
    try:
        raylet.GcsClient(address=address)
    except AuthenticationError:
        raise BadInput(
            f"--address {address}: the cluster asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to "
            "its file (docs/cluster.md)"
        ) from None
    except RpcError as fault:
        raise BadInput(f"--address {address}: who answers there is no Ray cluster: {fault}") from None


def _modules(factories: Iterable[str]) -> list[str]:
    """Files and folders of the user's own modules; what is installed is a dependency like others."""
    modules = set()
    for factory in factories:
        spec = importlib.util.find_spec(factory.partition(":")[0].partition(".")[0])
        if spec is None:
            continue
        paths = list(spec.submodule_search_locations) if spec.submodule_search_locations else [spec.origin or ""]
        modules |= {path for path in paths if path and "site-packages" not in Path(path).parts}
    return sorted(modules)
