"""Which rows of data sets are used: at most a number of them, or a mixture by weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from accord.data.report import ReadReport
from accord.records import Record, Source

Origin = Literal["start", "anywhere"]


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The records of a data set, and what happened to the rows that they were read from."""

    records: list[Record]
    report: ReadReport


def choose_rows(rows: int, count: int, origin: Origin, seed: int) -> tuple[list[int], str]:
    """The numbers of `count` of `rows` usable rows, ascending: the first ones, or a random choice
    by the seed; and a note for the report."""
    which = "the first ones" if origin == "start" else f"a random choice by seed {seed}"
    chosen = list(range(count))
    if origin == "anywhere":
        chosen = random_rows(rows, count, seed)
    return chosen, f"{count:,} of the {rows:,} usable rows are used: {which}"


def random_rows(rows: int, count: int, seed: int) -> list[int]:
    """The numbers of `count` of `rows` rows, ascending, chosen by the seed."""
    return sorted(random.Random(f"rows {seed}").sample(range(rows), count))


def mixture_counts(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each data set a mixture has.

    With weights w and sizes n, ⌊wᵢ·minⱼ(nⱼ/wⱼ)⌋ of data set i: as many as these shares allow
    without repeating a row.
    """
    scale = min(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(1, int(weight * scale + 1e-9)) for weight in weights]


def join_reports(reports: Sequence[ReadReport], records: int) -> ReadReport:
    """The report of a mixture with this number of records."""
    dropped: dict[str, list[tuple[Source, str]]] = {}
    for report in reports:
        for reason, rows in report.dropped.items():
            dropped[reason] = [*dropped.get(reason, []), *rows]
    return ReadReport(
        ", ".join(report.path for report in reports),
        sum(report.rows for report in reports),
        sum(report.used for report in reports),
        records,
        dropped,
        [f"of {report.path}: {note}" for report in reports for note in report.notes],
    )


def limit_rows(read: ReadRows, count: int | None, origin: Origin, seed: int) -> ReadRows:
    """At most `count` rows, in their order (see `choose_rows`).

    All records of a row are used, or none. None for `count` is all rows.
    """
    sources = list(dict.fromkeys(record.source for record in read.records))
    if count is None or len(sources) <= count:
        return read
    numbers, note = choose_rows(len(sources), count, origin, seed)
    chosen = {sources[number] for number in numbers}
    return ReadRows(
        [record for record in read.records if record.source in chosen],
        replace(read.report, notes=[*read.report.notes, note]),
    )


def mix_rows(parts: Sequence[ReadRows], weights: Sequence[float], seed: int) -> ReadRows:
    """The rows of several data sets as one: with weights as many of each as `mixture_counts` says,
    chosen by the seed; without, all rows."""
    if weights:
        sizes = [len({record.source for record in part.records}) for part in parts]
        counts = mixture_counts(sizes, weights)
        parts = [
            limit_rows(part, count, "anywhere", seed + number)
            for number, (part, count) in enumerate(zip(parts, counts, strict=True))
        ]
    records = [record for part in parts for record in part.records]
    return ReadRows(records, join_reports([part.report for part in parts], len(records)))
