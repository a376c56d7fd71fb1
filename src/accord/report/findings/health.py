"""Remarks on a training stage's health, and what the measured models say about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accord.report.plain import number, visible
from accord.report.reading import ReportInputs, Stage
from accord.report.tables.bake_off import start_row
from accord.report.tables.rows import Row, best_measure, gap, known, told_apart


@dataclass(frozen=True, slots=True)
class Remark:
    """One remark as the page tells it."""

    level: Literal["warning", "note"]
    about: str
    text: str


def remarks(stage: Stage, inputs: ReportInputs, rows: Sequence[Row]) -> list[Remark]:
    """What health.json of the stage says. Whether likelihood displacement did harm is told by the
    model that came of it, where it was measured beside the one it started from."""
    found = []
    for one in stage.health:
        level: Literal["warning", "note"] = "warning" if one.get("level") == "warning" else "note"
        text = str(one.get("text", ""))
        if one.get("about") == "likelihood displacement":
            harmed, told = _came_of_it(stage, inputs, rows)
            level = level if harmed is None else "warning" if harmed else "note"
            text = f"{text} {told}".strip()
        found.append(Remark(level, visible(str(one.get("about", ""))), visible(text)))
    return found


def _came_of_it(stage: Stage, inputs: ReportInputs, rows: Sequence[Row]) -> tuple[bool | None, str]:
    """Whether the model is worse than its start, and a sentence; None where nobody can tell."""
    by_name = {row["model"]: row for row in rows}
    names = [
        c.name
        for c in inputs.contestants
        if c.train and Path(c.train).resolve() == stage.folder.resolve() and c.name in by_name
    ]
    start = start_row(str(stage.settings.get("model") or ""), inputs, by_name)
    if not names or start is None:
        return None, ""
    row = by_name[names[0]]
    measure = best_measure([row, start])
    if measure is None:
        return None, ""
    key, name, digits = measure
    if not (known(row, key) and known(start, key)):
        return None, ""
    between = gap(row, start, key).mean
    told = f"its {name} is {number(row[key], digits)}, that of {start['model']} "
    told += number(start[key], digits)
    if not told_apart(row, start, key):
        return None, f"Whether it did harm here, the data do not tell: {told}."
    if between > 0:
        return False, f"Here it did no harm: {told}."
    return True, f"Here the model became worse: {told}."
