"""A store's rows are read some at a time, and are those that reading it at once would give."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accord.compare.dataset import load_records
from accord.compare.store import queries
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict, Verdict
from accord.compare.store_stream import StoreStream
from accord.data.kinds import Kind
from accord.records import Comparison, Response
from accord.settings.verdicts import VerdictFilter
from tests.postgresql import PostgreSql

VERDICTS: Sequence[Verdict] = (  # their ids are 1, 2, …; responses 1 to 8 are a to h
    PairVerdict(1, 2, "a", "ann"),
    RankingVerdict((3, 4, 5), (0, 0, 0), "ann"),
    PairVerdict(3, 4, "tie", "ann"),
    PairVerdict(2, 1, "a", "bob"),
    RankingVerdict((5, 4, 3), (0, 1, 2), "bob"),
    PairVerdict(7, 8, "skip", "ann"),
    RatingVerdict(6, 1.0, "ann"),
    PairVerdict(1, 2, "a", "cy"),
    PairVerdict(7, 8, "b", "bob"),
    RankingVerdict((6, 7), (1, 0), "ann"),
    PairVerdict(5, 6, "both_bad", "ann"),
    PairVerdict(3, 4, "tie", "bob"),
    RankingVerdict((3, 4, 5), (0, 1, 2), "cy"),
    RatingVerdict(6, 0.0, "bob"),
    RatingVerdict(5, 1.0, "ann"),
    RatingVerdict(6, 0.5, "cy"),
    RatingVerdict(5, 0.0, "bob"),
)


def fill(path: Path | str, verdicts: Sequence[Verdict] = VERDICTS) -> str:
    with PreferenceStore.open(path) as store:
        store.add_responses([Response("p", text, "m") for text in "abcdefgh"])
        store.add_verdicts(verdicts)
    return str(path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return fill(tmp_path / "store.db")


def ids(path: str, kind: Kind, **keys: Any) -> tuple[list[int | None], dict[str, list[int | None]]]:
    """The verdicts that are the sources of the records, and those that are dropped."""
    records, report = load_records(path, kind, verdict_filter=VerdictFilter(**keys))
    dropped = {why: [source.line for source, _ in rows] for why, rows in report.dropped.items()}
    return [record.source.line for record in records], dropped


@pytest.mark.parametrize("chunk", [1, 2, 3, 500])
def test_rows_are_in_the_order_of_their_verdicts(
    chunk: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair is at its first vote, a ranking at the first that does not tie all; each is once,
    with all its votes, wherever these are."""
    monkeypatch.setattr(queries, "CHUNK", chunk)
    tied = "all responses of the ranking tie"
    split = "the votes are split evenly"
    # Two of three votes prefer a to b; pairs 3 and 11 have no winner; the rankings of c, d and e
    # by bob and cy are opposite.
    dropped = {"skipped": [6], "tie": [3, 12], "tie of two bad responses": [11], tied: [2]}
    assert ids(path, "preferences") == ([1, 5, 9, 10], dropped)
    first = load_records(path, "preferences")[0][0]
    assert isinstance(first, Comparison)
    assert (first.chosen, first.probability) == ("a", pytest.approx(2 / 3))
    assert ids(path, "preferences", labels="majority") == ([1, 9, 10], {**dropped, split: [5, 13]})
    dropped.pop("tie of two bad responses")
    assert ids(path, "kto") == ([1, 5, 7, 9, 10, 11, 11, *range(14, 18)], dropped)
    dropped.pop(tied)
    assert ids(path, "sft") == ([1, 2, 9, 10], {**dropped, "tie of two bad responses": [11]})
    assert ids(path, "ratings") == ([7, 14, 15, 16, 17], {})
    assert ids(path, "ratings", min_votes=3) == ([7, 14, 16], {"fewer than 3 votes": [15, 17]})
    assert ids(path, "ratings", min_votes=2) == ([7, 14, 15, 16, 17], {})
    few = "fewer than 2 votes"
    assert ids(path, "preferences", labels="separate", min_votes=2) == (
        [1, 4, 5, 8, 13],
        {"skipped": [6], "tie": [3, 12], few: [9, 11, 10], tied: [2]},
    )
    assert ids(path, "comparisons", labels="probability", min_votes=2, agreement=0.6) == (
        [1],
        {"skipped": [6], "tie": [3, 12], few: [9, 11]},
    )


def test_the_order_of_the_reasons(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single verdicts come first, then panels, in the order of the kinds: where as many are dropped
    for two reasons, this decides which is named first."""
    monkeypatch.setattr(queries, "CHUNK", 2)
    _, dropped = ids(path, "preferences", min_votes=2)
    assert list(dropped) == [
        "skipped",
        "tie",
        "fewer than 2 votes",
        "all responses of the ranking tie",
    ]


def test_few_rows_are_read_at_a_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "CHUNK", 2)
    numbers, verdicts = [], []
    real, read = queries.select_judged, queries.iterate_verdicts

    def counted(*args: Any) -> Any:
        prompts, responses = real(*args)
        numbers.append(len(responses))
        return prompts, responses

    def recorded(*args: Any) -> Any:
        for verdict in read(*args):
            verdicts.append(verdict.id)
            yield verdict

    monkeypatch.setattr(queries, "select_judged", counted)
    monkeypatch.setattr(queries, "iterate_verdicts", recorded)
    load_records(path, "kto")
    # Two verdicts at a time of eight on pairs, four rankings and five ratings; of these the
    # rankings 10 and 13 are on the most responses.
    assert (len(numbers), max(numbers)) == (4 + 2 + 3, 2 + 3)
    # Beside each once, those on the same responses as the pairs 1 and 3, 4 and 6, 8 and 9, 11 and
    # 12 (none on those of 6 alone, a skip), and as the rankings 2 and 5, 10 and 13.
    assert len(verdicts) == 17 + (3 + 2) + 3 + (3 + 2) + (1 + 2) + 3 + (1 + 3)


def test_all_is_read_as_it_was_at_first(path: str) -> None:
    check_snapshot(path)


def test_all_of_a_database_is_read_as_it_was_at_first(postgresql: PostgreSql) -> None:
    url = fill(postgresql.create())
    assert ids(url, "preferences")[0] == [1, 5, 9, 10]
    check_snapshot(url)


def check_snapshot(path: str) -> None:
    with closing(StoreStream(path, "preferences")) as stream:
        stream.check()
        before = list(stream.usable())
        report = stream.report()
        with PreferenceStore.open(path) as store:  # what others add meanwhile is not seen
            store.add_verdicts([PairVerdict(1, 2, "b", "dan"), PairVerdict(1, 3, "b", "dan")])
        assert list(stream.usable()) == before
        assert stream.report() == report
    # Now a and b have two votes each, so their pair is dropped, and there is one more.
    assert ids(path, "preferences")[0] == [5, 9, 10, 19]
