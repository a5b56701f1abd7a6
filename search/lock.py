"""One driver for each sweep."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gbc.checkpoint import write_atomic
from gbc.errors import BadInput


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock; a dead driver's lock is free by itself.

    Raises:
        BadInput: another driver holds it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    holder = folder / "driver.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        who = json.loads(holder.read_text()) if holder.exists() else {}
        detail = f" (pid {who['pid']} on {who['host']}, since {who['since']})" if who else ""
        raise BadInput(f"sweep {folder.name!r} is being run already{detail}; wait for it, or choose another --name") from None
    except OSError as fault:
        raise BadInput(f"{folder}: cannot be written: {fault.strerror}") from None
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        write_atomic(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
