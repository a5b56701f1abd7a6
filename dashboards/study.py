"""The study of a sweep, read without getting in the way of a driver that writes to it."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from dashboards.errors import BadInput, public, reason
from dashboards.place import Record

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

# Under these names the sweep keeps in the study what Optuna has no place for.
REASON: Final = "reason"
SECOND: Final = "second_objective"
MISSED: Final = "missed"
LOST: Final = "lost_workers"
ORIGIN: Final = "warm_start"
_SECONDS: Final = "seconds"

_READ_ONLY: Final = {"connect_timeout": 10, "options": "-c default_transaction_read_only=on"}


@dataclass(frozen=True)
class Ledger:
    """One consistent moment of a study, in memory."""

    study: Study
    seconds: float
    """Wall time that the sweep has run, all its runs together."""


def read(record: Record) -> Ledger:
    """The study of a sweep.

    Raises:
        BadInput: it is missing, damaged, or in a database that cannot be reached.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if record.study_url is not None:
        return _of_database(record, record.study_url)
    if not record.study_file.exists():
        raise BadInput(f"{record.study_file}: no such file; the sweep {record.name!r} has not begun")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        try:
            _copy(record.study_file, copy)
            return _load(record.name, f"sqlite:///{copy}", {})
        except Exception as fault:
            raise BadInput(f"{record.study_file}: cannot be read: {_why(fault)}") from None


def _of_database(record: Record, url: str) -> Ledger:
    try:
        return _load(record.name, url, _READ_ONLY)
    except Exception as fault:
        raise BadInput(
            f"study {public(url)}: cannot be read: {_why(fault)} (a password may be in PGPASSWORD or in ~/.pgpass)"
        ) from None


def _copy(source: Path, target: Path) -> None:
    """One moment of a database that a driver may have open, by sqlite's own backup."""
    # Without a write-ahead log nobody has the file open, and it is read without creating one.
    mode = "mode=ro" if source.with_name(f"{source.name}-wal").exists() else "mode=ro&immutable=1"
    address = f"file:{quote(str(source.resolve()))}?{mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=5)) as found, closing(sqlite3.connect(target)) as copy:
        found.backup(copy)


def _load(name: str, url: str, connect: dict[str, object]) -> Ledger:
    """Into memory, so that nothing is open when it returns. Creates no tables."""
    import optuna

    storage: RDBStorage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": connect}, skip_table_creation=True)
    try:
        stored = optuna.load_study(study_name=name, storage=storage)
        study = optuna.create_study(study_name=name, directions=stored.directions)
        study.add_trials(stored.get_trials(deepcopy=False))
        return Ledger(study, float(stored.user_attrs.get(_SECONDS, 0.0)))
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _why(fault: Exception) -> str:
    if isinstance(fault, KeyError):
        return "it holds no study of this name"
    return reason(getattr(fault, "orig", None) or fault)
