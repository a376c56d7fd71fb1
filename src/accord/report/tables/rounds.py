"""Rounds of sampling, judging and training: each round's model, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from accord.report.plain import listed, number, percent, spread, visible
from accord.report.tables.models import Cell

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """A key of a round in rounds.json, its heading and meaning, and how it is shown."""

    key: str
    heading: str
    meaning: str
    digits: int = 2
    share: bool = False


MEASURES = (
    Measure("true_reward", "True reward", "what the world says the answers are worth", 3),
    Measure("reward_model_score", "Score", "mean score of the reward model that judges"),
    Measure(
        "win_rate", "Wins", "how often the judge prefers it to the first model, ties half", 0, True
    ),
    Measure("kl", "KL", "divergence from the first model, nats a response"),
    Measure("mean_length", "Words", "mean length of a response", 1),
    Measure("finished_share", "Ended", "responses that ended by themselves (EOS)", 0, True),
    Measure(
        "distinct_2", "Distinct-2", "word pairs that are new, over an equal number of words", 3
    ),
)


@dataclass(frozen=True, slots=True)
class RoundsTable:
    """How the rounds went, as the page tells it; `rows` are rounds with one cell a column."""

    sentence: str
    columns: tuple[Measure, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def known_measures(rows: Sequence[Row]) -> tuple[Measure, ...]:
    """What was measured of at least one round."""
    return tuple(m for m in MEASURES if any(value_of(row, m.key)[0] is not None for row in rows))


def value_of(row: Row, key: str) -> tuple[float | None, float | None, float | None]:
    """The number with its interval's ends; None for what is not known."""
    value = row.get(key)
    if isinstance(value, Mapping):
        return value.get("mean"), value.get("low"), value.get("high")
    return (float(value) if isinstance(value, int | float) else None), None, None


def rounds_of_run(told: Mapping[str, Any]) -> RoundsTable:
    """The content of a rounds.json as a table for the page."""
    rows: list[Row] = told["rounds"]
    columns = known_measures(rows)
    return RoundsTable(
        _sentence(told),
        columns,
        tuple((str(row["round"]), tuple(_cell(row, m) for m in columns)) for row in rows),
    )


def rounds_table(told: Mapping[str, Any]) -> Table:
    """The same for the terminal, of some 80 columns: with intervals of the rewards alone."""
    page = rounds_of_run(told)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("round", justify="right", no_wrap=True)
    for column in page.columns:
        table.add_column(column.heading.lower(), justify="right", no_wrap=True)
    wide = [column.key in ("true_reward", "reward_model_score") for column in page.columns]
    for name, cells in page.rows:
        shown = zip(cells, wide, strict=True)
        table.add_row(name, *(f"{c.text} {c.small if w else ''}".strip() for c, w in shown))
    return table


def _cell(row: Row, measure: Measure) -> Cell:
    value, low, high = value_of(row, measure.key)
    if not measure.share:
        digits = measure.digits
        return Cell(number(value, digits), spread(value, low, high, digits))
    small = "" if low is None or high is None else f"{percent(low)} to {percent(high)}"
    return Cell(percent(value), small)


def _sentence(told: Mapping[str, Any]) -> str:
    method = visible(str(told.get("method"))).replace("_", " ")
    data = "its own verdicts" if told.get("keep_data") == "round" else "all verdicts so far"
    parts = [f"Each round samples from its model and trains by {method} on {data}"]
    if told.get("reference") is not None:
        moving = told["reference"] == "moving"
        parts.append(
            f"the reference is {'the start of each round' if moving else 'the first model'}"
        )
    return f"{listed(parts)}. Round 0 is the model that all starts from."
