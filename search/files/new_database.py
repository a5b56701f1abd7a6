"""A new SQLite database, which appears under its name with all of its tables or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_database(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to create the database at; at the end of the context it is moved to `path`.

    Neither Optuna nor MLflow can go on with a database that lacks some of its tables, and MLflow creates them for seconds. The
    caller holds a lock: what a process that was killed left of an earlier attempt is deleted.
    """
    prefix = f"{path.name}.new-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as folder:
        draft = Path(folder, path.name)
        yield draft
        os.replace(draft, path)
