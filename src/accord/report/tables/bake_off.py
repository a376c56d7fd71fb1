"""Bake-offs: preference methods that learned the same preferences from the same model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.report.plain import listed, number, signed, spread, visible
from accord.report.reading import ReportInputs, Stage
from accord.report.results import training_stage
from accord.report.tables.models import Cell
from accord.report.tables.rows import Row, best_measure, gap, known

METHODS = frozenset({"dpo", "ipo", "kto", "orpo", "simpo"})
"""Methods that learn from preferences without a reward model."""

EQUAL = 0.1
"""By how much tokens may differ, relative to the fewest, and still count as equal compute."""

_SHOWN = (("true_reward", 3), ("kl", 2), ("mean_length", 1), ("elo", 0))
_HEADINGS = {
    "true_reward": ("True reward", "what the world says the answers are worth"),
    "kl": ("KL", "divergence from the reference, nats a response"),
    "mean_length": ("Words", "mean length of a response"),
    "elo": ("Rating", "Bradley-Terry strength on the Elo scale"),
}


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model of a bake-off: its name, its method, the data set if it has one of its own."""

    model: str
    method: str
    data: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class BakeOff:
    """One table, the best first; `columns` are headings with what they mean."""

    sentence: str
    columns: tuple[tuple[str, str], ...]
    entrants: tuple[Entrant, ...]


@dataclass(frozen=True, slots=True)
class _Trained:
    row: Row
    stage: Stage

    @property
    def start(self) -> str:
        return _place(self.stage.settings.get("model"))

    @property
    def data(self) -> str:
        return _place(self.stage.settings.get("dataset"))

    @property
    def tokens(self) -> float | None:
        last = self.stage.metrics[-1] if self.stage.metrics else {}
        tokens = last.get("num_tokens")
        return float(tokens) if isinstance(tokens, int | float) else None


def bake_offs(inputs: ReportInputs, rows: Sequence[Row]) -> list[BakeOff]:
    """A table for each model from which two or more contestants learned the same data set.

    Those that learned another one from that model stand in the table as well, with its name.
    """
    trained: dict[str, list[_Trained]] = {}
    by_name = {row["model"]: row for row in rows}
    for contestant in inputs.contestants:
        stage = training_stage(inputs, contestant.train)
        if stage is not None and stage.kind in METHODS and contestant.name in by_name:
            one = _Trained(by_name[contestant.name], stage)
            trained.setdefault(one.start, []).append(one)
    return [
        _bake_off(entrants, start_row(start, inputs, by_name))
        for start, entrants in trained.items()
        if max(Counter(one.data for one in entrants).values()) > 1
    ]


def method_name(stage: Stage) -> str:
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


def _bake_off(entrants: Sequence[_Trained], start: Row | None) -> BakeOff:
    measure = best_measure([one.row for one in entrants])
    key, name, digits = measure or ("", "", 0)
    if measure is not None:
        entrants = sorted(
            entrants, key=lambda one: -one.row[key] if known(one.row, key) else math.inf
        )
    shown = [(k, d) for k, d in _SHOWN if any(known(one.row, k) for one in entrants)]
    gains = start is not None and known(start, key)
    after = [k for k, _ in shown].index(key) + 1 if gains else 0
    columns = [_HEADINGS[k] for k, _ in shown]
    if gains:
        columns.insert(after, ("Gain", f"in {name} over the model that it started from"))
    columns += [("Steps", "of the optimiser"), ("Tokens", "trained on, prompts and responses")]
    common = Counter(one.data for one in entrants).most_common(1)[0][0]
    best = max((one.row[key] for one in entrants if known(one.row, key)), default=None)
    found = []
    for one in entrants:
        cells = [_cell(one.row, k, d, best if k == key else None) for k, d in shown]
        if gains:
            assert start is not None
            cells.insert(after, _gain(one.row, start, key, digits))
        steps = one.stage.metrics[-1].get("step") if one.stage.metrics else None
        cells += [Cell(number(steps, 0)), Cell(number(one.tokens, 0))]
        data = "" if one.data == common else _short(one.data)
        found.append(Entrant(one.row["model"], visible(method_name(one.stage)), data, tuple(cells)))
    return BakeOff(_sentence(entrants, common, start), tuple(columns), tuple(found))


def _cell(row: Row, key: str, digits: int, best: float | None) -> Cell:
    value = row.get(key)
    small = spread(value, row.get(f"{key}_low"), row.get(f"{key}_high"), digits)
    return Cell(number(value, digits), small, value is not None and value == best)


def _gain(row: Row, start: Row, key: str, digits: int) -> Cell:
    if not known(row, key):
        return Cell("–")
    gain = gap(row, start, key)
    return Cell(signed(gain.mean, digits), spread(gain.mean, gain.low, gain.high, digits))


def _sentence(entrants: Sequence[_Trained], common: str, start: Row | None) -> str:
    """From what they started, what they learned, and whether compute was equal."""
    begun = visible(start["model"]) if start is not None else _short(entrants[0].start)
    text = f"All start from {begun} and learn from the same preferences ({_short(common)})"
    others = [visible(one.row["model"]) for one in entrants if one.data != common]
    if others:
        text += f", but for {listed(others)}, whose data set is named"
    counted = [(one.tokens, one) for one in entrants if one.tokens]
    if len(counted) < len(entrants):
        return f"{text}. How many tokens each was trained on is not known of all."
    counted.sort(key=lambda pair: pair[0])
    (fewest, first), (most, last) = counted[0], counted[-1]
    if most <= fewest * (1 + EQUAL):
        span = f"{fewest:,.0f} tokens" if most == fewest else f"{fewest:,.0f} to {most:,.0f} tokens"
        return f"{text}. Compute was equal: {span} each."
    return (
        f"{text}. Compute was not equal: {visible(last.row['model'])} was trained on {most:,.0f} "
        f"tokens, {most / fewest:.1f} times as many as {visible(first.row['model'])}."
    )


def start_row(start: str, inputs: ReportInputs, rows: Mapping[str, Row]) -> Row | None:
    """The row of the contestant whose model is the folder `start`, if there is one."""
    start = _place(start)
    for contestant in inputs.contestants:
        folders = [contestant.model, f"{contestant.train}/model" if contestant.train else None]
        same = any(folder and _place(folder) == start for folder in folders)
        if same and contestant.best_of is None and contestant.name in rows:
            return rows[contestant.name]
    return None


def _place(told: Any) -> str:
    """A folder, file or hub's name in one spelling."""
    return str(Path(str(told or "")).resolve())


def _short(place: str) -> str:
    return visible("/".join(Path(place).parts[-2:]))
