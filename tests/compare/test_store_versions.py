"""A store of version 1 is read as it is, and migrated when it is opened for writing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from accord.compare.dataset import load_records
from accord.compare.store import connection as store_connection
from accord.compare.store import store as store_module
from accord.compare.store.items import item_name
from accord.compare.store.migrations import MIGRATIONS, migrate
from accord.compare.store.schema import VERDICTS
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict

VERSION_1 = MIGRATIONS[:1]


def old_store(path: Path, rankings: int = 1) -> None:
    """A store as version 1 wrote it: a pair, a tie, rankings of 40 responses, a rating."""
    engine, name = store_connection.make_engine(path, create=True)
    with store_connection.transaction(engine, name, writes=True) as connection:
        migrate(connection, name, create=True, migrations=VERSION_1)
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO prompts VALUES (1, 'd', '\"p\"', '{}', 't')")
        rows = [(i, 1, f"answer {i}", "m", "{}", 1, "t") for i in range(1, 41)]
        connection.executemany(
            "INSERT INTO responses (id, prompt_id, text, model, settings, finished, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        verdicts = [(1, "pair", "x", "b"), (2, "pair", "x", "tie"), (3, "rating", "x", None)]
        verdicts += [(4 + i, "ranking", f"y{i}", None) for i in range(rankings)]
        connection.executemany(
            "INSERT INTO verdicts (id, prompt_id, kind, annotator, round, outcome, created)"
            " VALUES (?, 1, ?, ?, 0, ?, 't')",
            verdicts,
        )
        items = [(1, 0, 12, 1, None), (1, 1, 3, 0, None), (2, 0, 1, 0, None), (2, 1, 2, 0, None)]
        items += [(3, 0, 5, None, 0.5)]
        items += [
            (4 + r, slot, 40 - slot, slot, None) for r in range(rankings) for slot in range(40)
        ]
        connection.executemany(
            "INSERT INTO verdict_items (verdict_id, slot, response_id, rank, score)"
            " VALUES (?, ?, ?, ?, ?)",
            items,
        )


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    return int(number)


def content(path: Path) -> dict[str, int]:
    with PreferenceStore.read(path) as store:
        assert [(c.chosen, c.rejected) for c in store.comparisons()] == [("answer 3", "answer 12")]
        assert [(r.response, r.score) for r in store.ratings()] == [("answer 5", 0.5)]
        assert store.rankings()[0].ranks == tuple(range(40))
        return store.counts()


def test_an_old_store_is_read_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert content(path)["verdicts"] == 4
    assert [c.source.line for c in load_records(path, "comparisons")[0]] == [1]  # type: ignore[union-attr]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old.db"]
    assert version(path) == 1


def test_an_old_store_is_migrated_when_it_is_opened_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accord.compare.store.migrations.CHUNK", 2)
    path = tmp_path / "old.db"
    old_store(path, rankings=5)
    before = content(path)
    with PreferenceStore.open(path) as store, store.engine.connect() as connection:
        items = list(connection.scalars(sa.select(VERDICTS.c.item).order_by(VERDICTS.c.id)))
        assert items == ["3,12", "1,2", "5", *[item_name(range(1, 41))] * 5]
        # An opinion that was stored then is replaced like any other.
        connection.rollback()
        (new,) = store.add_verdicts([PairVerdict(3, 12, "tie", "x", key="k")])
        assert [(v.id, v.supersedes) for v in store.verdicts("pair")] == [(2, None), (new, 1)]
        assert store.counts()["verdicts"] == before["verdicts"] + 1
    assert version(path) == len(MIGRATIONS)


def test_a_migration_that_is_interrupted_leaves_version_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "old.db"
    old_store(path)
    before = content(path)

    def fail(connection: sa.Connection) -> None:
        MIGRATIONS[1](connection)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", (MIGRATIONS[0], fail))
        with pytest.raises(KeyboardInterrupt):
            PreferenceStore.open(path)
    assert version(path) == 1
    assert content(path) == before
