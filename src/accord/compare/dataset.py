"""Loads records for learning from a preference store, from files or from rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accord.compare.store.connection import is_store
from accord.compare.store.store import PreferenceStore
from accord.data.columns import DialogueText
from accord.data.kinds import Kind
from accord.data.read import FROM_COMPARISON, NO_COLUMNS, read_records, records_from_rows
from accord.data.report import Dropped, ReadReport, count_dropped
from accord.data.values import printable
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

R = TypeVar("R", bound=Record)
StoreRecords = tuple[Sequence[Record], Dropped, list[str]]
"""The records in a store, the verdicts dropped by reason, and the notes."""

NO_WINNER = {
    "tie": "tie",
    "both_bad": "tie of two bad responses",
    "undecided": "the judge's two orders disagree",
    "skip": "skipped",
    "flag": "flagged",
}


def load_records(
    dataset: str | Path | Iterable[Any],
    kind: Kind,
    dialogue_text: DialogueText = "turns",
    columns: Mapping[str, str] = NO_COLUMNS,
    *,
    columns_required: bool = True,
) -> tuple[list[Record], ReadReport]:
    """The records of `kind` in a data set, and what happened to each row or verdict.

    A path that ends in .db (or .sqlite), or a database URL, is a preference store, whose pairs
    without a winner count as dropped. Any other path or hub name is read by `read_records`, and
    rows in memory (dicts, records, a `datasets.Dataset`, a DataFrame) by `records_from_rows`, with
    their `columns` renamed:

        pairs, report = load_records("pairs.jsonl", "comparisons")
        pairs, report = load_records([{"prompt": …, "chosen": …, "rejected": …}], "comparisons")

    Raises DataError where there is nothing of that kind.
    """
    if not isinstance(dataset, str | Path):
        return records_from_rows(
            dataset, kind, dialogue_text, columns, columns_required=columns_required
        )
    if not is_store(dataset):
        return read_records(
            dataset, kind, dialogue_text, columns, columns_required=columns_required
        )
    if columns and columns_required:
        raise DataError(f"{dataset} is a preference store, which has no `columns`. Leave them out.")
    with PreferenceStore.read(dataset) as store:
        if kind not in READERS:
            raise DataError(
                f"{store.path} is a preference store, which holds no {kind}. Give a file of rows."
            )
        try:
            records, dropped, notes = READERS[kind](store)
            for record in records:
                _require_texts(record)
        except (LookupError, TypeError, ValueError, StopIteration) as error:  # of changed bytes
            raise DataError(
                f"{store.path} is damaged: what it holds does not belong together "
                f"({type(error).__name__}: {printable(str(error))[:200]}). Give another store."
            ) from error
        if not records:
            contents = ", ".join(f"{n:,} {what}" for what, n in store.counts().items() if n)
            raise DataError(
                f"{store.path} holds nothing that can be used as {kind}: it has "
                f"{contents or 'nothing at all'}. Give another store, or add verdicts to this one."
            )
        used = len({record.source for record in records})
        rows = used + count_dropped(dropped)
        return list(records), ReadReport(store.path, rows, used, len(records), dropped, notes)


def _require_texts(record: Record) -> None:
    """Raise TypeError for a response of a store that is no text."""
    texts: tuple[object, ...] = ()
    if isinstance(record, Demonstration | Rating):
        texts = (record.response,)
    elif isinstance(record, Comparison):
        texts = (record.chosen, record.rejected)
    elif isinstance(record, Ranking):
        texts = record.responses
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"the response of {record.source} is {type(text).__name__}")


def _read_comparisons(store: PreferenceStore) -> tuple[list[Comparison], Dropped, list[str]]:
    dropped: Dropped = {}
    for verdict in store.verdicts("pair"):
        if verdict.outcome in NO_WINNER:
            dropped.setdefault(NO_WINNER[verdict.outcome], []).append((store.source(verdict), ""))
    usable = []
    for pair in store.comparisons():
        if pair.chosen == pair.rejected:
            dropped.setdefault("chosen and rejected are equal", []).append((pair.source, ""))
        else:
            usable.append(pair)
    return usable, dropped, []


def _read_rankings(store: PreferenceStore) -> tuple[list[Ranking], Dropped, list[str]]:
    dropped: Dropped = {}
    usable = []
    for ranking in store.rankings():
        if len(set(ranking.ranks)) == 1:
            reason = "all responses of the ranking tie"
            dropped.setdefault(reason, []).append((ranking.source, ""))
        else:
            usable.append(ranking)
    return usable, dropped, []


def _read_preferences(store: PreferenceStore) -> StoreRecords:
    pairs, tied_pairs, _ = _read_comparisons(store)
    rankings, tied_rankings, _ = _read_rankings(store)
    return _sort_by_id([*pairs, *rankings]), tied_pairs | tied_rankings, []


def _read_all_verdicts(store: PreferenceStore) -> StoreRecords:
    preferences, dropped, _ = _read_preferences(store)
    return _sort_by_id([*preferences, *store.ratings()]), dropped, []


def _read_ratings(store: PreferenceStore) -> StoreRecords:
    ratings = store.ratings()
    return (ratings, {}, []) if ratings else _convert_comparisons(store, Rating)


def _read_demonstrations(store: PreferenceStore) -> StoreRecords:
    """The chosen response of each pair, and the best of each ranking."""
    best = [_best_response(ranking) for ranking in store.rankings()]
    if not best:
        return _convert_comparisons(store, Demonstration)
    pairs, dropped, notes = _convert_comparisons(store, Demonstration)
    notes = [*(notes if pairs else []), "the best of each ranking is read as a demonstration"]
    return _sort_by_id([*pairs, *best]), dropped, notes


def _best_response(ranking: Ranking) -> Demonstration:
    """The response with the best rank, the first of them where several tie, as in best-of-N."""
    best = ranking.ranks.index(min(ranking.ranks))
    finished = ranking.finished is None or ranking.finished[best]
    fields = ranking.fields[best] if ranking.fields else ""
    return Demonstration(ranking.prompt, ranking.responses[best], ranking.source, finished, fields)


def _convert_comparisons(store: PreferenceStore, target: type[Record]) -> StoreRecords:
    pairs, dropped, _ = _read_comparisons(store)
    note, convert = FROM_COMPARISON[target]
    return [record for pair in pairs for record in convert(pair)], dropped, [note]


def _read_prompts(store: PreferenceStore) -> StoreRecords:
    prompts = [PromptOnly(p.prompt, Source(store.path, p.id), p.meta) for p in store.prompts()]
    return prompts, {}, []


def _sort_by_id(records: list[R]) -> list[R]:
    """The records in the order in which their verdicts were added."""
    return sorted(records, key=lambda record: record.source.line or 0)


READERS: dict[Kind, Callable[[PreferenceStore], StoreRecords]] = {
    "comparisons": _read_comparisons,
    "rankings": _read_rankings,
    "preferences": _read_preferences,
    "ratings": _read_ratings,
    "demonstrations": _read_demonstrations,
    "sft": _read_demonstrations,
    "kto": _read_all_verdicts,
    "prompts": _read_prompts,
}
