"""Remarks on a training stage's health, with the evidence from the evaluated models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accord.report.formatting import format_number, visible
from accord.report.reading import ReportInputs, StageRecord
from accord.report.tables.bake_off import start_row
from accord.report.tables.rows import (
    Row,
    best_criterion,
    difference,
    differs_significantly,
    has_value,
)


@dataclass(frozen=True, slots=True)
class Remark:
    """One remark on the page."""

    level: Literal["warning", "note"]
    about: str
    text: str


def remarks(stage: StageRecord, inputs: ReportInputs, rows: Sequence[Row]) -> list[Remark]:
    """The remarks of the stage's health.json. Whether likelihood displacement did harm is decided
    by the resulting model, where it was evaluated together with the model it started from."""
    page_remarks = []
    for entry in stage.health:
        level: Literal["warning", "note"] = "warning" if entry.get("level") == "warning" else "note"
        text = str(entry.get("text", ""))
        if entry.get("about") == "likelihood displacement":
            harmed, outcome = _displacement_outcome(stage, inputs, rows)
            level = level if harmed is None else "warning" if harmed else "note"
            text = f"{text} {outcome}".strip()
        if entry.get("step") and entry["step"] != (stage.metrics or ({},))[-1].get("step"):
            text = f"{text} First seen at step {entry['step']}."
        page_remarks.append(Remark(level, visible(str(entry.get("about", ""))), visible(text)))
    return page_remarks


def unlearned_stages(inputs: ReportInputs) -> dict[str, str]:
    """By the stage's name, the remarks on trainings that have not ordered held-out pairs as they
    were preferred: no better than chance, or worse."""
    return {
        visible(stage.name): visible(str(entry.get("text", "")))
        for stage in inputs.stages
        for entry in stage.health
        if entry.get("about") == "held-out order"
    }


def _displacement_outcome(
    stage: StageRecord, inputs: ReportInputs, rows: Sequence[Row]
) -> tuple[bool | None, str]:
    """Whether the model is worse than its start, and a sentence; None where that is unknown."""
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
    criterion = best_criterion([row, start])
    if criterion is None:
        return None, ""
    key, name, digits = criterion
    if not (has_value(row, key) and has_value(start, key)):
        return None, ""
    values = f"its {name} is {format_number(row[key], digits)}, that of {start['model']} "
    values += format_number(start[key], digits)
    if not differs_significantly(row, start, key):
        return None, f"The data do not show whether it did harm here: {values}."
    if difference(row, start, key).mean > 0:
        return False, f"Here it did no harm: {values}."
    return True, f"Here the model became worse: {values}."
