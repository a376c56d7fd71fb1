"""Which rows of data sets are used: at most a number of them, or a mixture by weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from accord.data.report import ReadReport
from accord.records import Record, Source


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The records of a data set, and what happened to the rows that they were read from."""

    records: list[Record]
    report: ReadReport


def limit_rows(
    read: ReadRows, count: int | None, origin: Literal["start", "anywhere"], seed: int
) -> ReadRows:
    """At most `count` rows, in their order: the first ones, or a random choice by the seed.

    All records of a row are used, or none. None for `count` is all rows.
    """
    sources = list(dict.fromkeys(record.source for record in read.records))
    if count is None or len(sources) <= count:
        return read
    which = "the first ones" if origin == "start" else f"a random choice by seed {seed}"
    note = f"{count:,} of the {len(sources):,} usable rows are used: {which}"
    if origin == "anywhere":
        sources = random.Random(f"rows {seed}").sample(sources, count)
    chosen = set(sources[:count])
    return ReadRows(
        [record for record in read.records if record.source in chosen],
        replace(read.report, notes=[*read.report.notes, note]),
    )


def mix_rows(parts: Sequence[ReadRows], weights: Sequence[float], seed: int) -> ReadRows:
    """The rows of several data sets as one.

    With weights w, nᵢ = ⌊wᵢ·minⱼ(|j|/wⱼ)⌋ rows of data set i are chosen by the seed: as many as
    these shares allow without repeating a row. Without, all rows are used.
    """
    if weights:
        sizes = [len({record.source for record in part.records}) for part in parts]
        scale = min(size / weight for size, weight in zip(sizes, weights, strict=True))
        counts = [max(1, int(weight * scale + 1e-9)) for weight in weights]
        parts = [
            limit_rows(part, count, "anywhere", seed + number)
            for number, (part, count) in enumerate(zip(parts, counts, strict=True))
        ]
    reports = [part.report for part in parts]
    dropped: dict[str, list[tuple[Source, str]]] = {}
    for report in reports:
        for reason, rows in report.dropped.items():
            dropped[reason] = [*dropped.get(reason, []), *rows]
    notes = [f"of {report.path}: {note}" for report in reports for note in report.notes]
    return ReadRows(
        [record for part in parts for record in part.records],
        ReadReport(
            ", ".join(report.path for report in reports),
            sum(report.rows for report in reports),
            sum(report.used for report in reports),
            sum(len(part.records) for part in parts),
            dropped,
            notes,
        ),
    )
