"""Ratings of one model's checkpoints or rounds, in their order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from accord.measure.ratings.rate import ModelRating

_NAME = re.compile(
    r"(?:(?P<run>.+?)(?:@|[-/ _](?=round|checkpoint|step)))?"
    r"(?P<unit>round|checkpoint|step)?[-_ ]?(?P<number>\d+)"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A checkpoint's or a round's rating: `model` is its full name."""

    model: str
    number: int
    rating: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class RatedRun:
    """A run's rated moments in the order of their numbers, which are steps or rounds."""

    run: str
    unit: str
    moments: tuple[Moment, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def moment_of(name: str) -> tuple[str, str, int] | None:
    """The run, the unit and the number in a name such as `dpo@100`, `dpo@round-2`, `round-3` or
    `dpo/checkpoint-100`; None of others."""
    match = _NAME.fullmatch(name)
    if match is None or (match["unit"] is None and "@" not in name):
        return None
    unit = "round" if match["unit"] == "round" else "step"
    return match["run"] or "", unit, int(match["number"])


def rated_runs(models: Sequence[ModelRating]) -> tuple[RatedRun, ...]:
    """The runs of which two moments or more were rated; a rating that is not finite is left out."""
    runs: dict[tuple[str, str], list[Moment]] = defaultdict(list)
    for row in models:
        moment = moment_of(row.model)
        if moment is not None and abs(row.rating) < float("inf"):
            run, unit, number = moment
            runs[run, unit].append(Moment(row.model, number, row.rating, row.low, row.high))
    return tuple(
        RatedRun(run, unit, tuple(sorted(moments, key=lambda m: m.number)))
        for (run, unit), moments in sorted(runs.items())
        if len(moments) > 1
    )
