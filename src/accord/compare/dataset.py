"""Records to learn from, out of a preference store or out of files alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from accord.compare.store.connect import is_store
from accord.compare.store.store import PreferenceStore
from accord.data.read import FROM_COMPARISON, Kind, read_records
from accord.data.report import ReadReport
from accord.errors import DataError
from accord.records import (
    Comparison,
    Demonstration,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Source,
)

Dropped = dict[str, list[tuple[Source, str]]]
Read = tuple[Sequence[Record], Dropped, list[str]]
"""The records, what was dropped by reason, and the notes."""

NO_WINNER = {"tie": "tie", "both_bad": "tie of two bad responses"}


def load_records(place: str | Path, kind: Kind) -> tuple[list[Record], ReadReport]:
    """The records of `kind` at `place`, and what became of each row or verdict.

    A place that ends in .db (or .sqlite), or a database URL, is a preference store; all else is
    read by `accord.data.read.read_records`. A store's pairs without a winner count as dropped.
    Raises DataError where there is nothing of that kind.
    """
    if not is_store(place):
        return read_records(place, kind)
    with PreferenceStore.open(place, create=False) as store:
        if kind not in READERS:
            raise DataError(
                f"{store.place} is a preference store, which holds no {kind}. Give a file of rows."
            )
        records, dropped, notes = READERS[kind](store)
        if not records:
            held = ", ".join(f"{n:,} {what}" for what, n in store.counts().items() if n)
            raise DataError(
                f"{store.place} holds nothing that can be used as {kind}: it has "
                f"{held or 'nothing at all'}. Give another store, or add verdicts to this one."
            )
        lost = sum(len(where) for where in dropped.values())
        used = len({record.source for record in records})
        return list(records), ReadReport(
            store.place, used + lost, used, len(records), dropped, notes
        )


def _comparisons(store: PreferenceStore) -> tuple[list[Comparison], Dropped, list[str]]:
    dropped: Dropped = {}
    for verdict in store.verdicts("pair"):
        if verdict.outcome in NO_WINNER:
            dropped.setdefault(NO_WINNER[verdict.outcome], []).append((store.source(verdict), ""))
    kept = []
    for pair in store.comparisons():
        if pair.chosen == pair.rejected:
            dropped.setdefault("chosen and rejected are equal", []).append((pair.source, ""))
        else:
            kept.append(pair)
    return kept, dropped, []


def _rankings(store: PreferenceStore) -> tuple[list[Ranking], Dropped, list[str]]:
    dropped: Dropped = {}
    kept = []
    for ranking in store.rankings():
        if len(set(ranking.ranks)) == 1:
            where = (ranking.source, "")
            dropped.setdefault("all responses of the ranking tie", []).append(where)
        else:
            kept.append(ranking)
    return kept, dropped, []


def _preferences(store: PreferenceStore) -> Read:
    pairs, tied_pairs, _ = _comparisons(store)
    rankings, tied_rankings, _ = _rankings(store)
    together: list[Comparison | Ranking] = [*pairs, *rankings]
    together.sort(key=lambda record: record.source.line or 0)
    return together, tied_pairs | tied_rankings, []


def _judged(store: PreferenceStore) -> Read:
    preferences, dropped, _ = _preferences(store)
    together: list[Record] = [*preferences, *store.ratings()]
    together.sort(key=lambda record: record.source.line or 0)
    return together, dropped, []


def _ratings(store: PreferenceStore) -> Read:
    ratings = store.ratings()
    return (ratings, {}, []) if ratings else _converted(store, Rating)


def _demonstrations(store: PreferenceStore) -> Read:
    """The chosen of each pair, and the best of each ranking."""
    best = [_best(ranking) for ranking in store.rankings()]
    if not best:
        return _converted(store, Demonstration)
    pairs, dropped, notes = _converted(store, Demonstration)
    together = [*pairs, *best]
    together.sort(key=lambda record: record.source.line or 0)
    notes = [*(notes if pairs else []), "the best of each ranking is read as a demonstration"]
    return together, dropped, notes


def _best(ranking: Ranking) -> Demonstration:
    """The first of those in the best place: best-of-N takes one whoever ties with it."""
    best = ranking.ranks.index(min(ranking.ranks))
    ended = ranking.finished is None or ranking.finished[best]
    return Demonstration(ranking.prompt, ranking.responses[best], ranking.source, ended)


def _converted(store: PreferenceStore, target: type[Record]) -> Read:
    pairs, dropped, _ = _comparisons(store)
    note, convert = FROM_COMPARISON[target]
    return [record for pair in pairs for record in convert(pair)], dropped, [note]


def _prompts(store: PreferenceStore) -> Read:
    prompts = [PromptOnly(p.prompt, Source(store.place, p.id), p.meta) for p in store.prompts()]
    return prompts, {}, []


READERS: dict[Kind, Callable[[PreferenceStore], Read]] = {
    "comparisons": _comparisons,
    "rankings": _rankings,
    "preferences": _preferences,
    "ratings": _ratings,
    "demonstrations": _demonstrations,
    "sft": _demonstrations,
    "kto": _judged,
    "prompts": _prompts,
}
