"""Several processes that vote at the same time, on SQLite and on another database by URL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from accord.compare.store.connection import make_engine, transaction
from accord.compare.store.fingerprint import JudgeAnswer, JudgeFingerprint
from accord.compare.store.migrations import MIGRATIONS, migrate
from accord.compare.store.rows import StoredPrompt
from accord.compare.store.schema import METADATA, VERDICTS
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict
from tests.compare.store_verdicts import ASK, answers, fails


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database: PostgreSQL's, or any that ACCORD_TEST_DATABASE names by URL."""
    url = os.environ.get("ACCORD_TEST_DATABASE")
    if url is None:
        yield request.getfixturevalue("postgresql").create()
        return
    yield url
    engine = sa.create_engine(url)
    METADATA.drop_all(engine)
    engine.dispose()


VOTER = """
import sys
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
with PreferenceStore.open(sys.argv[1]) as store:
    for i in range(40):
        print(store.add_verdicts([PairVerdict(1, 2, "a", "ann", key=f"k{i}")])[0])
"""


def voters(store: str) -> list[list[int]]:
    """The ids that three processes get which send the same 40 votes at the same time."""
    command = [sys.executable, "-c", VOTER, store]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    return [[int(line) for line in out.split()] for out, _ in outputs]


def test_processes_that_send_the_same_votes_add_each_once(
    store: PreferenceStore, path: Path
) -> None:
    answers(store, "four", "five")
    first, second, third = voters(str(path))
    assert first == second == third
    assert len(set(first)) == store.counts()["verdicts"] == 40


BATCHES = """
import sys
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.records import Response
numbers = range(300) if sys.argv[2] == "up" else range(299, -1, -1)
with PreferenceStore.open(sys.argv[1]) as store:
    for start in range(0, 300, 50):
        chunk = numbers[start : start + 50]
        rows = [Response(f"prompt {i}", side, "m") for i in chunk for side in "ab"]
        ids = store.add_responses(rows, [f"{r.prompt} {r.text}" for r in rows])
        pairs = zip(ids[::2], ids[1::2], chunk)
        store.add_verdicts([PairVerdict(a, b, "a", "x", key=f"k{i}") for a, b, i in pairs])
"""


def counts_after_opposite_orders(store: str) -> tuple[int, ...]:
    """Prompts, responses and verdicts after two processes have added the same rows from opposite
    ends, which locks rows crosswise."""
    processes = [
        subprocess.Popen([sys.executable, "-c", BATCHES, store, direction], stderr=subprocess.PIPE)
        for direction in ("up", "down")
    ]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    with PreferenceStore.open(store) as opened:
        counts = opened.counts()
    return counts["prompts"], counts["responses"], counts["verdicts"]


def test_the_same_rows_in_opposite_orders(path: Path) -> None:
    assert counts_after_opposite_orders(str(path)) == (300, 600, 300)


def test_another_database(url: str) -> None:
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
    with PreferenceStore.read(url) as store:
        assert store.prompts() == [StoredPrompt(1, ASK, {})]
        assert [(p.chosen, p.rejected) for p in store.comparisons()] == [("two", "one")]
        assert [r.ranks for r in store.rankings()] == [(2, 0, 1)]
        assert [r.score for r in store.ratings()] == [0.5]
        assert store.counts()["ties"] == 1


def test_votes_in_another_database(url: str) -> None:
    judge = JudgeFingerprint("m", "e", "p", "r", {"temperature": 0})
    with PreferenceStore.open(url) as store:
        a, b = answers(store, "four", "five")
        first, third, fourth = voters(url)
        assert first == third == fourth
        assert len(set(first)) == store.counts()["verdicts"] == 40
        assert len(store.verdicts()) == 1  # of one annotator on one pair
        said = (JudgeAnswer("A", (a, b), "A", 0.75),)
        vote = PairVerdict(
            a, b, "b", "ann", tags=("x", "é"), strength=2, judge=judge, answers=said, key="j"
        )
        (id_,) = store.add_verdicts([vote])
        assert store.judge_answers([id_]) == {id_: said}
        (stored,) = store.verdicts()
        assert (stored.id, stored.tags, stored.strength) == (id_, ("x", "é"), 2)
        assert (stored.judge, stored.supersedes) == (judge.digest, max(first))
        assert "belongs to another verdict" in fails(
            lambda: store.add_verdicts([PairVerdict(a, b, "a", "ann", key="j")])
        )


def test_the_same_rows_in_opposite_orders_in_another_database(url: str) -> None:
    assert counts_after_opposite_orders(url) == (300, 600, 300)


def test_an_old_store_in_another_database(url: str) -> None:
    engine, name = make_engine(url, create=True)
    with transaction(engine, name, writes=True) as connection:
        migrate(connection, name, create=True, migrations=MIGRATIONS[:1])
        for statement in (
            "INSERT INTO prompts VALUES (1, 'd', '\"p\"', '{}', 't')",
            "INSERT INTO responses VALUES (3, 1, 'a', 'm', '{}', NULL, NULL, true, 't')",
            "INSERT INTO responses VALUES (5, 1, 'b', 'm', '{}', NULL, NULL, true, 't')",
            "INSERT INTO verdicts VALUES (1, 1, 'pair', 'x', 0, 'b', NULL, NULL, 't')",
            "INSERT INTO verdict_items VALUES (1, 0, 5, 1, NULL, NULL)",
            "INSERT INTO verdict_items VALUES (1, 1, 3, 0, NULL, NULL)",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()
    assert "is a preference store of the older version 1" in fails(
        lambda: PreferenceStore.read(url)
    )
    with PreferenceStore.open(url) as store, store.engine.connect() as connection:
        assert list(connection.scalars(sa.select(VERDICTS.c.item))) == ["3,5"]
        assert [(c.chosen, c.rejected) for c in store.comparisons()] == [("a", "b")]
