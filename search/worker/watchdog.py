"""A watchdog for workers: a process whose trial works too long without a report writes its traceback and ends.

A thread of the interpreter's own keeps the time (`faulthandler`), so that code that never gives the others a turn is ended too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO, TypeVar

from records.format import duration
from search.spec.config import SweepConfig

T = TypeVar("T")
_DEFAULT_SECONDS: Final = 600.0
_EXPECTED_REPORTS: Final = 20.0
_TIMEOUT_WORDS: Final = "Timeout ("  # how the interpreter begins


def silence_limit(config: SweepConfig, steps_per_second: float) -> float:
    """The seconds that a trial may be silent: as configured, or ten minutes, or twenty times what a report should take."""
    if config.hang_limit is not None:
        return config.hang_limit * 60
    return max(_DEFAULT_SECONDS, _EXPECTED_REPORTS * config.trial.report_every / steps_per_second)


def with_watchdog(work: Iterator[T], seconds: float, hang_report: str | Path) -> Iterator[T]:
    """Yield the items of `work`. When one takes longer than `seconds`, the process writes its traceback and ends.

    The traceback goes to the file `hang_report`; if its name is empty, to standard error, which Ray keeps in its log of the
    worker. The time limit is for `work` alone: the driver may be busy with an item.

    Raises:
        OSError: `hang_report` cannot be written.
    """
    with _private_file(Path(hang_report)) if hang_report else os.fdopen(os.dup(2), "w") as file:
        if hang_report:
            file.write(f"no report within {duration(seconds)}; where it hung is in error.log\n")
            file.flush()
        while True:
            faulthandler.dump_traceback_later(seconds, exit=True, file=file)
            try:
                item = next(work)
            except StopIteration:
                return
            finally:
                faulthandler.cancel_dump_traceback_later()
            yield item


@contextlib.contextmanager
def _private_file(path: Path) -> Iterator[TextIO]:
    """A new file that no other user can read; it is deleted at the end of the context."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def take_hang_report(hang_report: Path) -> tuple[str, str] | None:
    """Read and delete the report of a hang: the reason and the traceback. None when the process ended in another way."""
    with contextlib.suppress(OSError):
        reason, _, frames = hang_report.read_text(errors="replace").partition("\n")
        hang_report.unlink()
        if frames.startswith(_TIMEOUT_WORDS):
            return reason, frames
    return None
