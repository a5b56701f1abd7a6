"""Studies that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from records.errors import Unreadable
from records.study import Study
from tests.support.servers import NEEDS_POSTGRES, Postgres

pytestmark = NEEDS_POSTGRES


def test_a_database_without_studies_is_refused_and_stays_empty(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy

    monkeypatch.setenv("PGPASSWORD", server.password)
    with pytest.raises(Unreadable, match=r"/empty: .*PGPASSWORD"):
        Study("near", server.url("empty"), Path("none")).trials()
    engine = sqlalchemy.create_engine(server.url("empty"))
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()
