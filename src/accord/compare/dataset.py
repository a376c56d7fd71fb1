"""Loads records for learning from a preference store, from files or from rows in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accord.compare.store.connection import is_store
from accord.compare.store.store import PreferenceStore
from accord.compare.store_records import READERS, UNCHECKED, StoreRead, read_store
from accord.data.columns import DialogueText
from accord.data.kinds import Kind
from accord.data.read import NO_COLUMNS, read_records, records_from_rows
from accord.data.report import ReadReport, count_dropped
from accord.data.values import printable
from accord.errors import DataError
from accord.records import Comparison, Demonstration, Ranking, Rating, Record
from accord.settings.verdicts import VerdictFilter


def load_records(
    dataset: str | Path | Iterable[Any],
    kind: Kind,
    dialogue_text: DialogueText = "turns",
    columns: Mapping[str, str] = NO_COLUMNS,
    *,
    columns_required: bool = True,
    verdict_filter: VerdictFilter | None = None,
) -> tuple[list[Record], ReadReport]:
    """The records of `kind` in a data set, and what happened to each row or verdict.

    A path that ends in .db (or .sqlite), or a database URL, is a preference store, of which
    `verdict_filter` chooses the verdicts; those without a preference count as dropped. Any other
    path or hub name is read by `read_records`, and rows in memory (dicts, records, a
    `datasets.Dataset`, a DataFrame) by `records_from_rows`, with their `columns` renamed:

        pairs, report = load_records("pairs.jsonl", "comparisons")
        pairs, report = load_records([{"prompt": …, "chosen": …, "rejected": …}], "comparisons")

    With `columns_required` False, the columns and the filter apply where they can. Raises
    DataError where there is nothing of that kind, or the filter leaves nothing.
    """
    in_store = isinstance(dataset, str | Path) and is_store(dataset)
    if verdict_filter is not None and columns_required:
        _check_filter(dataset, kind, in_store=in_store)
    if not isinstance(dataset, str | Path):
        return records_from_rows(
            dataset, kind, dialogue_text, columns, columns_required=columns_required
        )
    if not in_store:
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
            read = read_store(store, kind, verdict_filter)
            for record in read.records:
                _require_texts(record)
        except (LookupError, TypeError, ValueError, StopIteration) as error:  # of changed bytes
            raise DataError(
                f"{store.path} is damaged: what it holds does not belong together "
                f"({type(error).__name__}: {printable(str(error))[:200]}). Give another store."
            ) from error
        if not read.records:
            raise _nothing_left(store, kind, read)
        rows = read.used + count_dropped(read.dropped)
        records = list(read.records)
        report = ReadReport(store.path, rows, read.used, len(records), read.dropped, read.notes)
        return records, report


def _check_filter(dataset: object, kind: Kind, *, in_store: bool) -> None:
    if not in_store:
        name = dataset if isinstance(dataset, str | Path) else f"a {type(dataset).__name__}"
        raise DataError(
            f"`filter` chooses verdicts of a preference store, and {name} is none. Leave it out, "
            "or import the rows with `accord data import`."
        )
    if kind == "prompts":
        raise DataError(
            f"`filter` chooses verdicts, and of {dataset} only the prompts are read. Leave it out."
        )


def _nothing_left(store: PreferenceStore, kind: Kind, read: StoreRead) -> DataError:
    """The error where a store, or what the filter leaves of it, has no records of a kind."""
    reasons = [f"{len(rows):,} {reason}" for reason, rows in read.dropped.items()]
    if read.plan is not None and read.plan.verdicts:
        reasons = [*(f"{n:,} {reason}" for reason, n in read.plan.left_out.items()), *reasons]
    contents = ", ".join(f"{n:,} {what}" for what, n in store.counts().items() if n)
    why = f" Left out are {', '.join(reasons)}." if reasons else ""
    remedy = "Give another store, or add verdicts to this one."
    if read.plan is not None and read.plan.left_out:
        remedy = "Loosen the `filter`, or give another store."
    elif UNCHECKED in read.dropped:
        remedy = (
            "Check the judge with `accord judge check`, or name it in `unchecked_judges`. A check "
            "in another store counts with `filter.judge_checks`."
        )
    return DataError(
        f"{store.path} holds nothing that can be used as {kind}: it has "
        f"{contents or 'nothing at all'}.{why} {remedy}"
    )


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
