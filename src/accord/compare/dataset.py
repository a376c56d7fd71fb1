"""Loads records for learning from a preference store, from files or from rows in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from accord.compare.store.connection import is_store
from accord.compare.store_stream import StoreStream
from accord.data.columns import DialogueText
from accord.data.kinds import Kind
from accord.data.read import NO_COLUMNS, read_records, records_from_rows
from accord.data.report import ReadReport
from accord.errors import DataError
from accord.records import Record
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
    if columns_required:
        check_store_settings(dataset, kind, columns, verdict_filter)
    if not isinstance(dataset, str | Path):
        return records_from_rows(
            dataset, kind, dialogue_text, columns, columns_required=columns_required
        )
    if not is_store(dataset):
        return read_records(
            dataset, kind, dialogue_text, columns, columns_required=columns_required
        )
    with closing(StoreStream(dataset, kind, verdict_filter)) as stream:
        records = [record for row in stream.usable() for record in row]
        return records, stream.report()


def check_store_settings(
    dataset: object, kind: Kind, columns: Mapping[str, str], verdict_filter: VerdictFilter | None
) -> None:
    """Raise DataError for `columns` of a preference store, and for a filter of anything else."""
    in_store = isinstance(dataset, str | Path) and is_store(dataset)
    if verdict_filter is not None and not in_store:
        name = dataset if isinstance(dataset, str | Path) else f"a {type(dataset).__name__}"
        raise DataError(
            f"`filter` chooses verdicts of a preference store, and {name} is none. Leave it out, "
            "or import the rows with `accord data import`."
        )
    if verdict_filter is not None and kind == "prompts":
        raise DataError(
            f"`filter` chooses verdicts, and of {dataset} only the prompts are read. Leave it out."
        )
    if columns and in_store:
        raise DataError(f"{dataset} is a preference store, which has no `columns`. Leave them out.")
