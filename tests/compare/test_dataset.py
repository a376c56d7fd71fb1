"""Records from a store, a file, or rows in memory."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.compare.dataset import load_records
from accord.compare.store.connection import is_store
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import (
    PairVerdict,
    RankingVerdict,
    RatingVerdict,
    Verdict,
)
from accord.errors import DataError, StorageError
from accord.records import (
    Comparison,
    Demonstration,
    PromptOnly,
    Ranking,
    Rating,
    Response,
    Source,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PreferenceStore]:
    """Responses 1 to 4, "a" "b" "c" "a", to one prompt, and no verdict."""
    with PreferenceStore.open(tmp_path / "store.db") as opened:
        opened.add_prompts([("p", {"kind": "sum"})])
        opened.add_responses([Response("p", text, "m") for text in "abca"])
        yield opened


def add(store: PreferenceStore, verdict: Verdict) -> int:
    """Adds one verdict; its id."""
    return store.add_verdicts([verdict])[0]


def test_what_is_a_store() -> None:
    for path in ("store.db", "a/b.sqlite", "postgresql+psycopg://u@h/n", Path("x.DB")):
        assert is_store(path)
    for path in ("rows.jsonl", "owner/name", "owner/name:train", "folder"):
        assert not is_store(path)


def test_comparisons_without_the_pairs_that_cannot_be_learned(store: PreferenceStore) -> None:
    add(store, PairVerdict(1, 2, "b", annotator="x"))
    add(store, PairVerdict(1, 3, "tie", annotator="x"))
    add(store, PairVerdict(3, 4, "both_bad", annotator="x"))
    add(store, PairVerdict(1, 4, "a", annotator="x"))  # both say "a"
    add(store, PairVerdict(2, 3, "tie", annotator="x"))
    add(store, PairVerdict(2, 4, "skip", annotator="x"))
    add(store, PairVerdict(2, 4, "flag", annotator="y"))
    add(store, PairVerdict(2, 4, "undecided", annotator="z"))
    records, report = load_records(store.path, "comparisons")
    assert records == [Comparison("p", "b", "a", None, Source(store.path, 1))]
    assert report.summary() == (
        "8 rows, 1 used, 7 dropped: 2 tie (store.db:2, store.db:5); 1 skipped (store.db:6); "
        "1 flagged (store.db:7); 1 undecided: the judge's two orders disagree (store.db:8); "
        "1 tie of two bad responses (store.db:3); 1 chosen and rejected are equal (store.db:4)."
    )


def test_preferences_hold_comparisons_and_rankings_in_their_order(store: PreferenceStore) -> None:
    add(store, RankingVerdict((1, 2, 3), (2, 0, 1), annotator="x"))
    add(store, PairVerdict(1, 2, "a", annotator="x"))
    add(store, RankingVerdict((1, 2), (0, 0), annotator="x"))
    ranking = Ranking("p", ("a", "b", "c"), (2, 0, 1), Source(store.path, 1))
    comparison = Comparison("p", "a", "b", None, Source(store.path, 2))
    records, report = load_records(store.path, "preferences")
    assert records == [ranking, comparison]
    assert list(report.dropped) == ["all responses of the ranking tie"]
    assert load_records(store.path, "rankings")[0] == [ranking]


def test_ratings_or_else_two_from_each_comparison(store: PreferenceStore) -> None:
    add(store, PairVerdict(1, 2, "a", annotator="x"))
    here = Source(store.path, 1)
    records, report = load_records(store.path, "ratings")
    assert records == [Rating("p", "a", 1.0, here), Rating("p", "b", 0.0, here)]
    assert (report.rows, report.used, report.records) == (1, 1, 2)
    assert report.notes == ["each comparison is read as two ratings, chosen 1 and rejected 0"]
    add(store, RatingVerdict(3, 1, annotator="x"))
    records, report = load_records(store.path, "ratings")
    assert records == [Rating("p", "c", 1.0, Source(store.path, 2))]
    assert report.notes == []


def test_kto_takes_all_verdicts_with_a_preference(store: PreferenceStore) -> None:
    (cut,) = store.add_responses([Response("p", "d", "m", finished=False)])
    add(store, RatingVerdict(cut, 0.25, annotator="x"))
    add(store, PairVerdict(1, 2, "a", annotator="x"))
    add(store, PairVerdict(2, 3, "tie", annotator="x"))
    add(store, RankingVerdict((1, 2, 3), (2, 0, 1), annotator="x"))
    records, report = load_records(store.path, "kto")
    assert records == [
        Rating("p", "d", 0.25, Source(store.path, 1), finished=False),
        Comparison("p", "a", "b", None, Source(store.path, 2)),
        Ranking("p", ("a", "b", "c"), (2, 0, 1), Source(store.path, 4)),
    ]
    assert (report.rows, report.used, report.records) == (4, 3, 3)
    assert list(report.dropped) == ["tie"]


def test_demonstrations_are_the_chosen_responses(store: PreferenceStore) -> None:
    add(store, PairVerdict(1, 2, "b", annotator="x"))
    for kind in ("sft", "demonstrations"):
        records, report = load_records(store.path, kind)
        assert records == [Demonstration("p", "b", Source(store.path, 1))]
        assert report.notes == ["the chosen responses are read as demonstrations"]


def test_prompts(store: PreferenceStore) -> None:
    records = load_records(store.path, "prompts")[0]
    assert records == [PromptOnly("p", Source(store.path, 1), {"kind": "sum"})]


def test_nothing_of_the_kind(store: PreferenceStore) -> None:
    add(store, PairVerdict(1, 2, "tie", annotator="x"))
    with pytest.raises(DataError) as caught:
        load_records(store.path, "comparisons")
    assert str(caught.value) == (
        f"{store.path} holds nothing that can be used as comparisons: it has 1 prompts, "
        "4 responses, 1 verdicts, 1 pairs, 1 ties. Left out are 1 tie. "
        "Give another store, or add verdicts to this one."
    )
    with pytest.raises(DataError) as caught:
        load_records(store.path, "text")
    assert str(caught.value) == (
        f"{store.path} is a preference store, which holds no text. Give a file of rows."
    )


def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.db does not exist"):
        load_records(tmp_path / "no.db", "comparisons")
    assert list(tmp_path.iterdir()) == []


def test_files_are_read_as_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    assert load_records(path, "comparisons")[0] == [
        Comparison("p", "a", "b", None, Source(str(path), 1))
    ]


def test_rows_in_memory_are_read_like_a_file() -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": r} for r in "ba"]
    records, report = load_records(rows, "comparisons")
    assert records == [Comparison("p", "a", "b", None, Source("list", 1, in_memory=True))]
    assert report.summary() == (
        "2 rows, 1 used, 1 dropped: 1 chosen and rejected are equal (row 2 of the list)."
    )


def test_demonstrations_are_the_chosen_and_the_best(store: PreferenceStore) -> None:
    add(store, RankingVerdict((2, 3, 1), (1, 0, 2), annotator="x"))
    add(store, PairVerdict(1, 2, "a", annotator="x"))
    add(store, RankingVerdict((2, 1), (0, 0), annotator="x"))  # the first of those that tie
    records, report = load_records(store.path, "sft")
    assert records == [
        Demonstration("p", "c", Source(store.path, 1)),
        Demonstration("p", "a", Source(store.path, 2)),
        Demonstration("p", "b", Source(store.path, 3)),
    ]
    assert report.notes == [
        "the chosen responses are read as demonstrations",
        "the best of each ranking is read as a demonstration",
    ]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE responses SET text = x'00ff' WHERE id = 1", "the response of"),
        ("UPDATE prompts SET content = 'null'", "a prompt must be text"),
        ("UPDATE prompts SET content = '[{'", "Expecting"),
        ("UPDATE prompts SET content = CAST(x'22ff22' AS TEXT)", "ecode"),
    ],
)
def test_a_damaged_store(tmp_path: Path, statement: str, message: str) -> None:
    path = tmp_path / "store.db"
    with PreferenceStore.open(path) as opened:
        a, b = opened.add_responses([Response("p", text, "m") for text in "ab"])
        opened.add_verdicts([PairVerdict(a, b, "a", "judge")])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with pytest.raises((DataError, StorageError), match=message):
        load_records(path, "comparisons")
