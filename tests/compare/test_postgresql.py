"""A preference store in PostgreSQL does what it does in SQLite."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from accord.compare.exchange.exporting import export_preferences
from accord.compare.exchange.importing import import_preferences
from accord.compare.store import queue_schema
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RatingVerdict
from accord.records import Message, Response
from tests.compare.store_verdicts import add, answers, fails
from tests.postgresql import PostgreSql


def test_a_round_trip(postgresql: PostgreSql) -> None:
    url = postgresql.create()
    assert fails(lambda: PreferenceStore.open(url, create=False)).endswith(
        "is an empty database. Give a preference store."
    )
    turns = (Message("system", "s"), Message("user", "ü \U0001f600"))
    with PreferenceStore.open(url) as store:
        settings = {"temperature": 0.5}
        store.add_responses([Response(turns, "four", "m", settings, -1.5, 3, finished=False)])
        a, b = answers(store, "five", "six")
        first = add(store, PairVerdict(a, b, "a", annotator="ann", key="k", tags=("x",)))
        assert add(store, PairVerdict(a, b, "a", annotator="ann", key="k", tags=("x",))) == first
        add(store, PairVerdict(a, b, "b", annotator="ann", strength=2))
        add(store, RatingVerdict(a, 0.0, annotator="ann", strength=3, criterion="red team"))
    with PreferenceStore.read(url) as store:
        stored = store.responses(model="m")[0].response
        assert (stored.prompt, stored.text, stored.settings) == (turns, "four", settings)
        assert (stored.logp, stored.tokens, stored.finished) == (-1.5, 3, False)
        assert [v.outcome for v in store.verdicts("pair", history=True)] == ["a", "b"]
        assert [(v.outcome, v.strength) for v in store.verdicts("pair")] == [("b", 2)]
        assert store.verdicts("rating")[0].strength == 3
        assert store.counts()["pairs"] == 1


def test_its_tables_are_those_of_the_schema(postgresql: PostgreSql) -> None:
    with PreferenceStore.open(postgresql.create()) as store:
        found = sa.inspect(store.engine)
        tables = queue_schema.METADATA.tables
        assert set(found.get_table_names()) == set(tables)
        for name, table in tables.items():
            columns = {c["name"]: c["nullable"] for c in found.get_columns(name)}
            assert columns == {c.name: c.nullable for c in table.columns}
            indexes = {i["name"] for i in found.get_indexes(name)}
            assert {str(i.name) for i in table.indexes} <= indexes


def test_export_and_import(postgresql: PostgreSql, tmp_path: Path) -> None:
    source, target = postgresql.create(), postgresql.create()
    with PreferenceStore.open(source) as store:
        a, b = answers(store, "five", "six")
        add(store, PairVerdict(a, b, "a", annotator="ann", comment="why", tags=("x", "y")))
    export_preferences(source, tmp_path / "out.jsonl", "verdicts")
    for _ in range(2):  # a second import adds nothing
        import_preferences(tmp_path / "out.jsonl", target)
    with PreferenceStore.read(target) as store:
        (verdict,) = store.verdicts(history=True)
        assert (verdict.outcome, verdict.comment, verdict.tags) == ("a", "why", ("x", "y"))
