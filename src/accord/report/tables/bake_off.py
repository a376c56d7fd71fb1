"""Bake-offs: preference methods that learned the same preferences from the same model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.measure.measures import Column, table_columns
from accord.measure.ratings.notes import join_names
from accord.report.formatting import format_margin, format_number, format_signed, visible
from accord.report.reading import ReportInputs, StageRecord
from accord.report.results import training_stage
from accord.report.tables.cells import Cell, table_cell
from accord.report.tables.rows import Criterion, Row, best_criterion, difference, has_value

METHODS = frozenset({"dpo", "ipo", "kto", "orpo", "simpo"})
"""Methods that learn from preferences without a reward model."""

EQUAL_COMPUTE = 0.1
"""The relative difference in tokens up to which compute counts as equal."""

SHOWN_MEASURES = ("true_reward", "kl", "mean_length", "elo")


@dataclass(frozen=True, slots=True)
class Entrant:
    """A row: a model, its method, and its data set where that is not the common one."""

    model: str
    method: str
    data: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class BakeOff:
    """One table, the best model first; `columns` are headings with their meanings."""

    sentence: str
    columns: tuple[tuple[str, str], ...]
    entrants: tuple[Entrant, ...]


@dataclass(frozen=True, slots=True)
class _TrainedModel:
    row: Row
    stage: StageRecord

    @property
    def start(self) -> str:
        return _absolute(self.stage.settings.get("model"))

    @property
    def data(self) -> str:
        return _absolute(self.stage.settings.get("dataset"))

    @property
    def tokens(self) -> float | None:
        last = self.stage.metrics[-1] if self.stage.metrics else {}
        tokens = last.get("num_tokens")
        return float(tokens) if isinstance(tokens, int | float) else None

    @property
    def steps(self) -> float | None:
        return self.stage.metrics[-1].get("step") if self.stage.metrics else None


def bake_offs(inputs: ReportInputs, rows: Sequence[Row]) -> list[BakeOff]:
    """A table for each model from which two or more contestants learned the same data set.

    Contestants that learned another data set from that model are in the table too, with its name.
    """
    by_start: dict[str, list[_TrainedModel]] = {}
    by_name = {row["model"]: row for row in rows}
    for contestant in inputs.contestants:
        stage = training_stage(inputs, contestant.train)
        if stage is not None and stage.kind in METHODS and contestant.name in by_name:
            model = _TrainedModel(by_name[contestant.name], stage)
            by_start.setdefault(model.start, []).append(model)
    return [
        _bake_off(models, start_row(start, inputs, by_name))
        for start, models in by_start.items()
        if max(Counter(model.data for model in models).values()) > 1
    ]


def method_name(stage: StageRecord) -> str:
    """The method, with its loss where that is not the default: "dpo, sigmoid + 0.1 sft"."""
    losses, weights = stage.settings.get("loss_type"), stage.settings.get("loss_weights")
    if losses is None or losses in ("sigmoid", "kto"):
        return stage.kind
    names = losses if isinstance(losses, list) else [losses]
    weights = (
        weights if isinstance(weights, list) and len(weights) == len(names) else [1] * len(names)
    )
    terms = [str(n) if w == 1 else f"{w:g} {n}" for n, w in zip(names, weights, strict=True)]
    return f"{stage.kind}, {' + '.join(terms)}"


def _bake_off(models: Sequence[_TrainedModel], start: Row | None) -> BakeOff:
    criterion = best_criterion([model.row for model in models])
    if criterion is not None:
        key = criterion.key
        models = sorted(models, key=lambda m: -m.row[key] if has_value(m.row, key) else math.inf)
    available = table_columns("models")
    shown = {
        key: available[key]
        for key in SHOWN_MEASURES
        if any(has_value(model.row, key) for model in models)
    }
    columns = [(column.heading, column.meaning) for column in shown.values()]
    gain_position = None
    if criterion is not None and start is not None and has_value(start, criterion.key):
        gain_position = list(shown).index(criterion.key) + 1
        meaning = f"in {criterion.name} over the model that it started from"
        columns.insert(gain_position, ("Gain", meaning))
    columns += [
        ("Steps", "optimiser steps"),
        ("Tokens", "training tokens of prompts and responses"),
    ]
    common = Counter(model.data for model in models).most_common(1)[0][0]
    entrants = []
    for model, cells in zip(models, _measure_cells(models, shown, criterion), strict=True):
        if gain_position is not None and criterion is not None and start is not None:
            cells.insert(gain_position, _gain_cell(model.row, start, criterion))
        cells += [Cell(format_number(model.steps, 0)), Cell(format_number(model.tokens, 0))]
        data = "" if model.data == common else _short_path(model.data)
        method = visible(method_name(model.stage))
        entrants.append(Entrant(model.row["model"], method, data, tuple(cells)))
    return BakeOff(_sentence(models, common, start), tuple(columns), tuple(entrants))


def _measure_cells(
    models: Sequence[_TrainedModel], columns: Mapping[str, Column], criterion: Criterion | None
) -> list[list[Cell]]:
    """A list of cells for each model; the best value of the criterion is marked."""
    best = None
    if criterion is not None:
        values = [m.row[criterion.key] for m in models if has_value(m.row, criterion.key)]
        best = max(values, default=None)
    return [
        [
            table_cell(
                model.row.get(key),
                model.row.get(f"{key}_low"),
                model.row.get(f"{key}_high"),
                column,
                best if criterion is not None and key == criterion.key else None,
            )
            for key, column in columns.items()
        ]
        for model in models
    ]


def _gain_cell(row: Row, start: Row, criterion: Criterion) -> Cell:
    if not has_value(row, criterion.key):
        return Cell("–")
    gain = difference(row, start, criterion.key)
    margin = format_margin(gain.mean, gain.low, gain.high, criterion.digits)
    return Cell(format_signed(gain.mean, criterion.digits), margin)


def _sentence(models: Sequence[_TrainedModel], common: str, start: Row | None) -> str:
    """The common start, the common data set, and whether compute was equal."""
    origin = visible(start["model"]) if start is not None else _short_path(models[0].start)
    text = f"All start from {origin} and learn from the same preferences ({_short_path(common)})"
    exceptions = [visible(model.row["model"]) for model in models if model.data != common]
    if exceptions:
        text += f", except {join_names(exceptions)}, whose data set is named in the table"
    counted = [(model.tokens, model) for model in models if model.tokens]
    if len(counted) < len(models):
        return f"{text}. The number of training tokens is not known for every model."
    counted.sort(key=lambda pair: pair[0])
    (fewest, first), (largest, last) = counted[0], counted[-1]
    if largest <= fewest * (1 + EQUAL_COMPUTE):
        tokens = f"{fewest:,.0f}" if largest == fewest else f"{fewest:,.0f} to {largest:,.0f}"
        return f"{text}. Compute was equal: {tokens} tokens each."
    return (
        f"{text}. Compute was not equal: {visible(last.row['model'])} was trained on "
        f"{largest:,.0f} tokens, {largest / fewest:.1f} times as many as "
        f"{visible(first.row['model'])}."
    )


def start_row(start: str, inputs: ReportInputs, rows: Mapping[str, Row]) -> Row | None:
    """The row of the contestant whose model is the folder `start`, if there is one."""
    start = _absolute(start)
    for contestant in inputs.contestants:
        folders = [contestant.model, f"{contestant.train}/model" if contestant.train else None]
        same = any(folder and _absolute(folder) == start for folder in folders)
        if same and contestant.best_of is None and contestant.name in rows:
            return rows[contestant.name]
    return None


def _absolute(path: Any) -> str:
    """The path of a folder or file in one spelling (a hub name is treated as a path)."""
    return str(Path(str(path or "")).resolve())


def _short_path(path: str) -> str:
    return visible("/".join(Path(path).parts[-2:]))
