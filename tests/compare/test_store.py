"""The preference store: records come back unchanged, nothing is overwritten, and each error."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.compare.store import connection as store_connection
from accord.compare.store import migrations
from accord.compare.store import store as store_module
from accord.compare.store.migrations import MIGRATIONS, migrate
from accord.compare.store.rows import StoredPrompt, StoredResponse
from accord.compare.store.schema import METADATA
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import (
    Item,
    PairVerdict,
    RankingVerdict,
    RatingVerdict,
    Verdict,
)
from accord.errors import AccordError, DataError, StorageError
from accord.records import Battle, Comparison, Message, Ranking, Rating, Response, Source

ASK = (Message("user", "2+2?"),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[PreferenceStore]:
    with PreferenceStore.open(path) as opened:
        yield opened


def answers(store: PreferenceStore, *texts: str, models: str = "xyz") -> list[int]:
    """One response to ASK a text, by the models x, y, z in turn."""
    return store.add_responses(
        [Response(ASK, text, models[i % len(models)]) for i, text in enumerate(texts)]
    )


def add(store: PreferenceStore, verdict: Verdict) -> int:
    """Adds one verdict; its id."""
    return store.add_verdicts([verdict])[0]


def fails(work: Any, kind: type[AccordError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        work()
    return str(caught.value)


def test_a_prompt_is_stored_once_with_its_first_meta(store: PreferenceStore) -> None:
    (first,) = store.add_prompts([(ASK, {"kind": "sum"})])
    assert store.add_prompts([(ASK, {"kind": "other"})]) == [first]
    (text,) = store.add_prompts([("2+2?", {})])
    assert text != first  # text to be continued is not a user's message
    assert store.add_prompts([("2+2?", {}), ("new", {"é": [1]}), ("new", {})]) == [text, 3, 3]
    assert store.prompts() == [
        StoredPrompt(1, ASK, {"kind": "sum"}),
        StoredPrompt(2, "2+2?", {}),
        StoredPrompt(3, "new", {"é": [1]}),
    ]


def test_responses_come_back_as_they_were(store: PreferenceStore) -> None:
    full = Response(ASK, "4", "m", {"seed": 1, "t": 0.5}, logp=-1.25, tokens=2, finished=False)
    bare = Response("other", "", "n")
    ids = store.add_responses([full, bare, full])  # the same answer twice is two responses
    assert ids == [1, 2, 3]
    assert store.responses() == [
        StoredResponse(1, 1, full),
        StoredResponse(2, 2, bare),
        StoredResponse(3, 1, full),
    ]
    assert [r.id for r in store.responses(model="m")] == [1, 3]
    assert [r.id for r in store.responses(prompt_id=2)] == [2]
    assert store.responses(model="n", prompt_id=1) == []
    assert store.add_responses([]) == []


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(deadline=None, max_examples=25)  # a database each
@given(
    st.lists(
        st.builds(
            Response,
            prompt=text | st.tuples(st.builds(Message, st.just("user"), text)),
            text=text,
            model=text,
            settings=st.dictionaries(text, st.none() | text | st.booleans(), max_size=2),
            logp=st.none() | st.floats(-1e6, 0),
            tokens=st.none() | st.integers(0, 9999),
            finished=st.booleans(),
        ),
        max_size=5,
    )
)
def test_any_response_comes_back(
    tmp_path_factory: pytest.TempPathFactory, items: list[Response]
) -> None:
    with PreferenceStore.open(tmp_path_factory.mktemp("s") / "store.db") as store:
        ids = store.add_responses(items)
        assert {r.id: r.response for r in store.responses()} == dict(zip(ids, items, strict=True))


def test_many_responses_keep_their_order(store: PreferenceStore) -> None:
    items = [Response(f"prompt {i % 700}", f"answer {i}", "m") for i in range(3000)]
    ids = store.add_responses(items)
    assert [r.response.text for r in store.responses()] == [r.text for r in items]
    assert ids == [r.id for r in store.responses()]
    assert store.counts()["prompts"] == 700


def test_pairs_of_each_outcome(store: PreferenceStore, path: Path) -> None:
    a, b = answers(store, "four", "five")
    for outcome in ("a", "b", "tie", "both_bad"):
        add(store, PairVerdict(a, b, outcome, annotator="ann"))
    assert store.comparisons() == [
        Comparison(ASK, "four", "five", None, Source(str(path), 1)),
        Comparison(ASK, "five", "four", None, Source(str(path), 2)),
    ]
    assert store.battles() == [
        Battle("x", "y", outcome) for outcome in ("a", "b", "tie", "both_bad")
    ]
    assert store.counts() == {
        "prompts": 1,
        "responses": 2,
        "verdicts": 4,
        "pairs": 4,
        "comparisons": 2,
        "ties": 1,
        "both_bad": 1,
        "rankings": 0,
        "ratings": 0,
    }


def test_a_models_own_pair_is_a_comparison_but_no_battle(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five", models="x")
    add(store, PairVerdict(a, b, "a", annotator="ann"))
    assert len(store.comparisons()) == 1
    assert store.battles() == []


def test_every_field_of_a_pair_verdict_is_stored(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    id_ = add(
        store,
        PairVerdict(
            a, b, "b", annotator="ann", round=2, reason="kinder", shown_first="b", seconds=3.5
        ),
    )
    (verdict,) = store.verdicts()
    assert (verdict.id, verdict.prompt_id, verdict.kind) == (id_, 1, "pair")
    assert (verdict.annotator, verdict.round, verdict.outcome) == ("ann", 2, "b")
    assert (verdict.reason, verdict.seconds) == ("kinder", 3.5)
    # b won, so its rank is 0 and a's 1; b was seen first.
    assert verdict.items == (Item(a, rank=1, shown=1), Item(b, rank=0, shown=0))


def test_rankings(store: PreferenceStore, path: Path) -> None:
    a, b, c = answers(store, "one", "two", "three")
    id_ = add(store, RankingVerdict((c, a, b), (0, 1, 1), annotator="ann", shown=(a, b, c)))
    assert store.rankings() == [
        Ranking(ASK, ("three", "one", "two"), (0, 1, 1), Source(str(path), id_))
    ]
    (verdict,) = store.verdicts("ranking")
    assert verdict.items == (Item(c, 0, None, 2), Item(a, 1, None, 0), Item(b, 1, None, 1))
    assert store.comparisons() == []


def test_ratings(store: PreferenceStore, path: Path) -> None:
    (a,) = answers(store, "one")
    add(store, RatingVerdict(a, 0, annotator="ann"))
    add(store, RatingVerdict(a, 4.5, annotator="bob", reason="clear", seconds=1))
    assert store.ratings() == [
        Rating(ASK, "one", 0.0, Source(str(path), 1)),
        Rating(ASK, "one", 4.5, Source(str(path), 2)),
    ]


def test_verdicts_of_a_round_or_an_annotator(store: PreferenceStore) -> None:
    a, b = answers(store, "four", "five")
    ids = store.add_verdicts(
        [
            PairVerdict(a, b, "a", "ann", round=0),
            PairVerdict(a, b, "b", "bob", round=0),
            RankingVerdict((a, b), (0, 1), "ann", round=1),
            RatingVerdict(a, 1.0, "bob", round=1),
            PairVerdict(a, b, "tie", "ann", round=1),
        ]
    )
    assert ids == [1, 2, 3, 4, 5]
    assert [c.source.line for c in store.comparisons(round=0)] == [1, 2]
    assert [c.source.line for c in store.comparisons(annotator="bob")] == [2]
    assert [v.id for v in store.verdicts(round=1)] == [3, 4, 5]
    assert [v.id for v in store.verdicts("pair", annotator="ann")] == [1, 5]
    assert store.rankings(round=0) == []
    assert len(store.ratings(round=1, annotator="bob")) == 1
    assert [b.outcome for b in store.battles(round=1)] == ["tie"]


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (
            PairVerdict(1, 9, "a", "ann"),
            "A verdict is about response 9, which is not in the store. "
            "Add the responses first and use the ids that they get.",
        ),
        (
            PairVerdict(1, 3, "a", "ann"),
            "A verdict compares responses 1, 3, which are to different prompts (1, 2). "
            "Compare responses to one prompt.",
        ),
        (
            PairVerdict(1, 1, "a", "ann"),
            "Response 1 can't be compared with itself. Give two responses.",
        ),
        (
            PairVerdict(1, 2, "x", "ann"),  # type: ignore[arg-type]
            "The outcome of responses 1 and 2 is 'x'. Give one of a, b, tie, both_bad.",
        ),
        (
            RankingVerdict((1, 2), (0,), "ann"),
            "A ranking gives responses [1, 2] the ranks [0]. "
            "Give two or more different responses and a rank for each.",
        ),
        (
            RankingVerdict((1, 1), (0, 1), "ann"),
            "A ranking gives responses [1, 1] the ranks [0, 1]. "
            "Give two or more different responses and a rank for each.",
        ),
        (
            RankingVerdict((1, 2), (1, 2), "ann"),
            "A ranking gives responses [1, 2] the ranks [1, 2]. "
            "Give whole numbers of which the best is 0.",
        ),
        (
            RankingVerdict((1, 2), (0, 1), "ann", shown=(1, 3)),
            "A ranking of responses [1, 2] says that [1, 3] were shown. "
            "Give the same responses in the order shown.",
        ),
        (
            RatingVerdict(1, math.nan, "ann"),
            "A rating of response 1 is nan. Give a finite number.",
        ),
    ],
)
def test_verdicts_that_are_refused(store: PreferenceStore, verdict: Any, message: str) -> None:
    answers(store, "four", "five")
    store.add_responses([Response("other", "z", "x")])
    good = PairVerdict(1, 2, "a", "ann")
    assert fails(lambda: store.add_verdicts([good, verdict])) == message
    assert store.counts()["verdicts"] == 0  # all or none


def test_value_that_json_cannot_hold(store: PreferenceStore, path: Path) -> None:
    message = fails(lambda: store.add_prompts([("p", {"x": {1, 2}})]))
    assert message == (
        f"A value can't be stored in {path}: Object of type set is not JSON "
        "serializable. Meta and settings must be what JSON can hold."
    )
    assert store.prompts() == []


def test_reopening(path: Path) -> None:
    with PreferenceStore.open(path) as store:
        a, b = answers(store, "four", "five")
        add(store, PairVerdict(a, b, "a", annotator="ann"))
    assert [p.name for p in path.parent.iterdir()] == ["store.db"]  # no side files are left
    with PreferenceStore.open(path, create=False) as store:
        assert len(store.comparisons()) == 1
        assert answers(store, "six") == [3]
        assert store.counts()["prompts"] == 1


def test_sqlite_settings(store: PreferenceStore) -> None:
    with store.engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("foreign_keys", "journal_mode", "busy_timeout")
        }
    assert values == {"foreign_keys": 1, "journal_mode": "wal", "busy_timeout": 60_000}


def test_missing_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("")
    assert fails(lambda: PreferenceStore.open(tmp_path / "stor.db", create=False)) == (
        f"{tmp_path / 'stor.db'} does not exist. Did you mean {tmp_path / 'store.db'}?"
    )
    assert not (tmp_path / "stor.db").exists()


def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("something else entirely" * 100)
    assert fails(lambda: PreferenceStore.open(path)) == (
        f"{path} is not a preference store: file is not a database. "
        "Give a store, or a new file's name."
    )
    assert path.read_text() == "something else entirely" * 100


def test_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    assert fails(lambda: PreferenceStore.open(path)) == (
        f"{path} is a database, but not a preference store: it has the tables songs. "
        "Give a store, or the name of a new file."
    )


def test_empty_file_is_a_store_only_where_one_may_be_created(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"")
    assert fails(lambda: PreferenceStore.open(path, create=False)) == (
        f"{path} is an empty database. Give a preference store."
    )
    with PreferenceStore.open(path) as store:
        assert store.counts()["prompts"] == 0


def test_store_of_a_newer_accord(path: Path) -> None:
    PreferenceStore.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO schema_version VALUES (99, 'later')")
    connection.close()
    assert fails(lambda: PreferenceStore.open(path)) == (
        f"{path} is a preference store of version 99, but this accord knows versions up to "
        f"{len(MIGRATIONS)}. Update accord, or use another store."
    )


def test_urls_that_cannot_be_used() -> None:
    assert fails(lambda: PreferenceStore.open("nosuch://user:secret@host/name")).startswith(
        "The store nosuch://… can't be opened: "
    )
    message = fails(lambda: PreferenceStore.open("postgresql+nosuch://user:secret@host/name"))
    assert "secret" not in message
    assert message.endswith(
        "Give a file ending in .db or a URL such as postgresql+psycopg://user@host/name, "
        "and install its driver."
    )


def test_sqlite_by_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with PreferenceStore.open(url) as store:
        a, b = answers(store, "four", "five")
        add(store, PairVerdict(a, b, "a", annotator="ann"))
        assert store.comparisons()[0].source == Source(url, 1)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fails(
        lambda: PreferenceStore.open(tmp_path / "file" / "store.db"), StorageError
    ).startswith(f"Could not write {tmp_path / 'file'}: a part of the path is a file, not a folder")


def test_locked_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PreferenceStore.open(path).close()
    monkeypatch.setattr(store_connection, "BUSY_SECONDS", 0.01)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with PreferenceStore.open(path) as store:
        assert store.prompts() == []  # reading is not blocked
        assert fails(lambda: store.add_prompts([("p", {})]), StorageError) == (
            f"The store {path} failed: database is locked. Another process has been writing for "
            "more than 0 seconds; wait for it to end."
        )
    writer.close()


def describe_tables(engine: sa.Engine) -> dict[str, Any]:
    """Tables, columns, types, keys and indexes as the database reports them."""
    inspector = sa.inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(
                (f["constrained_columns"], f["referred_table"])
                for f in inspector.get_foreign_keys(table)
            ),
            sorted((i["name"] or "", i["column_names"]) for i in inspector.get_indexes(table)),
            inspector.get_unique_constraints(table),
        )
        for table in inspector.get_table_names()
    }


def test_migrations_lead_to_the_schema(store: PreferenceStore) -> None:
    fresh = sa.create_engine("sqlite://")
    METADATA.create_all(fresh)
    assert describe_tables(store.engine) == describe_tables(fresh)


def test_an_old_store_is_migrated_to_the_newest_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PreferenceStore.open(path) as store:
        answers(store, "four")

    def add_language(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE prompts ADD COLUMN language TEXT DEFAULT 'en'")

    newer = (*MIGRATIONS, add_language)
    monkeypatch.setattr(store_module, "MIGRATIONS", newer)
    for _ in range(2):  # the second time there is nothing left to do
        with (
            PreferenceStore.open(path, create=False) as store,
            store.engine.connect() as connection,
        ):
            languages = connection.exec_driver_sql("SELECT language FROM prompts").scalars().all()
            versions = connection.scalars(sa.select(migrations.SCHEMA_VERSION.c.version)).all()
            assert languages == ["en"]
            assert versions == list(range(1, len(newer) + 1))


def test_a_migration_that_fails_leaves_the_store_as_it_was(path: Path) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE prompts ADD COLUMN language TEXT")
        raise RuntimeError("power cut")

    with PreferenceStore.open(path) as store:
        before = describe_tables(store.engine)

        def upgrade() -> None:
            with store_connection.transaction(store.engine, store.path, writes=True) as connection:
                migrate(connection, store.path, create=False, migrations=(*MIGRATIONS, fail))

        with pytest.raises(RuntimeError):
            upgrade()
        assert describe_tables(store.engine) == before
        assert store.counts()["prompts"] == 0


WRITER = """
import sys
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.records import Response
for i in range(25):
    with PreferenceStore.open(sys.argv[1]) as store:
        pair = [Response(f"prompt {i}", f"{sys.argv[2]} {k}", sys.argv[2]) for k in "ab"]
        a, b = store.add_responses(pair)
        store.add_verdicts([PairVerdict(a, b, "a", annotator=sys.argv[2])])
"""


def test_two_processes_write_at_the_same_time(path: Path) -> None:
    """Both create the store and add the same prompts; nothing is lost and no prompt doubled."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stderr=subprocess.PIPE)
        for name in ("x", "y")
    ]
    errors = [writer.communicate()[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    with PreferenceStore.open(path, create=False) as store:
        counts = store.counts()
        assert (counts["prompts"], counts["responses"], counts["comparisons"]) == (25, 100, 50)
        for name in ("x", "y"):
            pairs = {(c.prompt, c.chosen, c.rejected) for c in store.comparisons(annotator=name)}
            assert pairs == {(f"prompt {i}", f"{name} a", f"{name} b") for i in range(25)}


def test_opening_waits_for_a_process_that_is_writing(path: Path) -> None:
    # SQLite itself does not wait here: the file is not yet in write-ahead mode.
    path.parent.mkdir()
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("CREATE TABLE other (x)")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO other VALUES (1)")
    ending = threading.Timer(0.3, writer.execute, ("COMMIT",))
    ending.start()
    with sa.create_engine(f"sqlite:///{path}").connect() as waiting:
        store_connection._write_ahead(waiting.connection.dbapi_connection)
        assert not writer.in_transaction
        assert waiting.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    ending.join()
    writer.close()


def test_another_database() -> None:
    """Any database by URL: give an empty one in ACCORD_TEST_DATABASE to try it."""
    url = os.environ.get("ACCORD_TEST_DATABASE")
    if url is None:
        pytest.skip("ACCORD_TEST_DATABASE names no empty database")
    with PreferenceStore.open(url) as store:
        a, b, c = answers(store, "one", "two", "three")
        store.add_verdicts(
            [
                PairVerdict(a, b, "b", "ann", shown_first="b"),
                PairVerdict(a, c, "tie", "ann"),
                RankingVerdict((a, b, c), (2, 0, 1), "ann"),
                RatingVerdict(c, 0.5, "ann"),
            ]
        )
    with PreferenceStore.open(url, create=False) as store:
        assert store.prompts() == [StoredPrompt(1, ASK, {})]
        assert [(p.chosen, p.rejected) for p in store.comparisons()] == [("two", "one")]
        assert [r.ranks for r in store.rankings()] == [(2, 0, 1)]
        assert [r.score for r in store.ratings()] == [0.5]
        assert store.counts()["ties"] == 1
