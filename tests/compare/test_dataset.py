"""Records out of a store or a file alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.compare.dataset import load_records
from accord.compare.store.connect import is_store
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError
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
        opened.add_prompt("p", {"kind": "sum"})
        opened.add_responses([Response("p", text, "m") for text in "abca"])
        yield opened


def test_what_is_a_store() -> None:
    for place in ("store.db", "a/b.sqlite", "postgresql+psycopg://u@h/n", Path("x.DB")):
        assert is_store(place)
    for place in ("rows.jsonl", "owner/name", "owner/name:train", "folder"):
        assert not is_store(place)


def test_comparisons_without_the_pairs_that_cannot_be_learned(store: PreferenceStore) -> None:
    store.add_pair(1, 2, "b", annotator="x")
    store.add_pair(1, 2, "tie", annotator="x")
    store.add_pair(1, 2, "both_bad", annotator="x")
    store.add_pair(1, 4, "a", annotator="x")  # both say "a"
    store.add_pair(2, 3, "tie", annotator="x")
    records, report = load_records(store.place, "comparisons")
    assert records == [Comparison("p", "b", "a", None, Source(store.place, 1))]
    assert report.summary() == (
        "5 rows, 1 used, 4 dropped: 2 tie (store.db:2, store.db:5); "
        "1 tie of two bad responses (store.db:3); 1 chosen and rejected are equal (store.db:4)."
    )


def test_preferences_hold_comparisons_and_rankings_in_their_order(store: PreferenceStore) -> None:
    store.add_ranking([1, 2, 3], [2, 0, 1], annotator="x")
    store.add_pair(1, 2, "a", annotator="x")
    store.add_ranking([1, 2], [0, 0], annotator="x")
    ranking = Ranking("p", ("a", "b", "c"), (2, 0, 1), Source(store.place, 1))
    comparison = Comparison("p", "a", "b", None, Source(store.place, 2))
    records, report = load_records(store.place, "preferences")
    assert records == [ranking, comparison]
    assert list(report.dropped) == ["all responses of the ranking tie"]
    assert load_records(store.place, "rankings")[0] == [ranking]


def test_ratings_or_else_two_from_each_comparison(store: PreferenceStore) -> None:
    store.add_pair(1, 2, "a", annotator="x")
    here = Source(store.place, 1)
    records, report = load_records(store.place, "ratings")
    assert records == [Rating("p", "a", 1.0, here), Rating("p", "b", 0.0, here)]
    assert (report.rows, report.used, report.records) == (1, 1, 2)
    assert report.notes == ["each comparison is read as two ratings, chosen 1 and rejected 0"]
    store.add_rating(3, 1, annotator="x")
    records, report = load_records(store.place, "ratings")
    assert records == [Rating("p", "c", 1.0, Source(store.place, 2))]
    assert report.notes == []


def test_kto_takes_all_verdicts_that_tell_good_from_bad(store: PreferenceStore) -> None:
    (cut,) = store.add_responses([Response("p", "d", "m", finished=False)])
    store.add_rating(cut, 0.25, annotator="x")
    store.add_pair(1, 2, "a", annotator="x")
    store.add_pair(1, 2, "tie", annotator="x")
    store.add_ranking([1, 2, 3], [2, 0, 1], annotator="x")
    records, report = load_records(store.place, "kto")
    assert records == [
        Rating("p", "d", 0.25, Source(store.place, 1), finished=False),
        Comparison("p", "a", "b", None, Source(store.place, 2)),
        Ranking("p", ("a", "b", "c"), (2, 0, 1), Source(store.place, 4)),
    ]
    assert (report.rows, report.used, report.records) == (4, 3, 3)
    assert list(report.dropped) == ["tie"]


def test_demonstrations_are_the_chosen_responses(store: PreferenceStore) -> None:
    store.add_pair(1, 2, "b", annotator="x")
    for kind in ("sft", "demonstrations"):
        records, report = load_records(store.place, kind)
        assert records == [Demonstration("p", "b", Source(store.place, 1))]
        assert report.notes == ["the chosen responses are read as demonstrations"]


def test_prompts(store: PreferenceStore) -> None:
    records = load_records(store.place, "prompts")[0]
    assert records == [PromptOnly("p", Source(store.place, 1), {"kind": "sum"})]


def test_nothing_of_the_kind(store: PreferenceStore) -> None:
    store.add_pair(1, 2, "tie", annotator="x")
    with pytest.raises(DataError) as caught:
        load_records(store.place, "comparisons")
    assert str(caught.value) == (
        f"{store.place} holds nothing that can be used as comparisons: it has 1 prompts, "
        "4 responses, 1 verdicts, 1 pairs, 1 ties. "
        "Give another store, or add verdicts to this one."
    )
    with pytest.raises(DataError) as caught:
        load_records(store.place, "text")
    assert str(caught.value) == (
        f"{store.place} is a preference store, which holds no text. Give a file of rows."
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


def test_demonstrations_are_the_chosen_and_the_best(store: PreferenceStore) -> None:
    store.add_ranking([2, 3, 1], [1, 0, 2], annotator="x")
    store.add_pair(1, 2, "a", annotator="x")
    store.add_ranking([2, 1], [0, 0], annotator="x")  # the first of those that tie
    records, report = load_records(store.place, "sft")
    assert records == [
        Demonstration("p", "c", Source(store.place, 1)),
        Demonstration("p", "a", Source(store.place, 2)),
        Demonstration("p", "b", Source(store.place, 3)),
    ]
    assert report.notes == [
        "the chosen responses are read as demonstrations",
        "the best of each ranking is read as a demonstration",
    ]
