"""results.json: one flat row for each model, merged from evaluation.json and ratings.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import accord
from accord.measure.measures import Column, Measure, results_measures, table_columns
from accord.report.formatting import format_margin, visible
from accord.report.lineage import judges_of_results
from accord.report.rating_results import rating_results, round_results
from accord.report.reading import ReportInputs, StageRecord
from accord.report.tables.cells import format_value
from accord.report.tables.rows import Row, has_value


def merge_results(inputs: ReportInputs) -> dict[str, Any]:
    """The content of results.json: models in the contestants' order, others after them.

    What was not measured is null; a model that only one of the two files has gets a row as well.
    """
    evaluation, ratings = inputs.evaluation or {}, inputs.ratings or {}
    evaluated = {row["model"]: row for row in evaluation.get("models", [])}
    rated = {row["model"]: row for row in ratings.get("models", [])}
    order = [c.name for c in inputs.contestants if c.name in evaluated or c.name in rated]
    names = list(dict.fromkeys([*order, *evaluated, *rated]))
    stages = {c.name: training_stage(inputs, c.train) for c in inputs.contestants}
    ceilings = {c.name for c in inputs.contestants if c.ceiling}
    return {
        "models": [
            _results_row(name, evaluated.get(name, {}), rated.get(name, {}), stages.get(name))
            | {"ceiling": name in ceilings}
            for name in names
        ],
        "reward_model": evaluation.get("reward_model"),
        "judges": judges_of_results(inputs),
        "run": _run_facts(inputs),
        "notes": [str(note) for note in ratings.get("notes", [])],
        "ratings": rating_results(inputs.ratings),
        "rounds": round_results(inputs.rounds),
        "audits": [document.to_json() for _, document in inputs.audits],
    }


def terminal_table(results: Mapping[str, Any]) -> Table:
    """The rows as a table of some 80 columns, without measures that no model has.

    Columns of one group are merged into one.
    """
    rows: list[Row] = results["models"]
    groups = [
        group
        for group in _column_groups(table_columns("terminal"))
        if any(has_value(row, key) for row in rows for key in group)
    ]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="ellipsis", no_wrap=True, max_width=24)
    for group in groups:
        title = next(iter(group.values())).group
        heading = " ".join(column.heading for column in group.values())
        heading = f"{title}\n{heading}" if title else heading
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        # Text, not markup: a model may be called "[red]".
        table.add_row(Text(visible(row["model"])), *(_terminal_cell(row, g) for g in groups))
    return table


def terminal_verdict(results: Mapping[str, Any]) -> list[Text]:
    """The headline of the page and its warnings, for the terminal below the table."""
    verdict = results.get("verdict") or {}
    lines = [Text(visible(verdict["headline"]), style="bold")] if verdict.get("headline") else []
    for finding in verdict.get("findings") or ():
        if finding["level"] == "warning":
            lines.append(Text(f"Warning: {visible(finding['text'])}"))
    return lines


def _column_groups(columns: Mapping[str, Column]) -> list[dict[str, Column]]:
    """Neighbouring columns of one group together, any other column alone."""
    by_group = groupby(columns.items(), key=lambda item: item[1].group or item[0])
    return [dict(items) for _, items in by_group]


def _terminal_cell(row: Row, columns: Mapping[str, Column]) -> Text | str:
    if len(columns) > 1:
        texts = ((format_value(row.get(key), c), len(c.heading)) for key, c in columns.items())
        return " ".join(f"{text:>{width}}" for text, width in texts)
    ((key, column),) = columns.items()
    text = format_value(row.get(key), column)
    return _with_margin(Text(text), row, key, column) if column.shows_interval else text


def _with_margin(text: Text, row: Row, key: str, column: Column) -> Text:
    value, low, high = row.get(key), row.get(f"{key}_low"), row.get(f"{key}_high")
    if value is None:
        return text
    if low is not None and high is not None:
        # The wider side, so that an asymmetric interval is not shown as narrower than it is.
        margin = f"±{max(high - value, value - low):.{column.digits}f}"
    else:
        margin = format_margin(value, low, high, column.digits)
    return text.append(f" {margin}", style="dim") if margin else text


def _results_row(
    name: str,
    evaluated: Mapping[str, Any],
    rated: Mapping[str, Any],
    training: StageRecord | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name}
    for measure in results_measures():
        row |= _result_values(measure, evaluated, rated)
    if row["seconds"] is None and training is not None:
        row["seconds"] = training.seconds
    return row


def _result_values(
    measure: Measure, evaluated: Mapping[str, Any], rated: Mapping[str, Any]
) -> dict[str, Any]:
    """The measure's keys in results.json: one, or three where it has an interval."""
    key = measure.key
    if measure.rating is not None:
        value = rated.get(measure.rating)
        bounds = value if isinstance(value, Mapping) else rated  # of its own, or the rating's
        value = value.get("mean") if isinstance(value, Mapping) else value
    elif measure.interval:
        value = evaluated.get(key)
        bounds = value if isinstance(value, Mapping) else {}
        value = bounds.get("mean") if bounds else value  # a number alone, of an earlier version
    else:
        return {key: evaluated.get(key)}
    if not measure.interval:
        return {key: value}
    return {key: value, f"{key}_low": bounds.get("low"), f"{key}_high": bounds.get("high")}


def training_stage(inputs: ReportInputs, folder: str | None) -> StageRecord | None:
    """The training stage that a contestant names, if it is among those read."""
    if folder is None:
        return None
    path = Path(folder).resolve()
    return next((stage for stage in inputs.stages if stage.folder.resolve() == path), None)


def _run_facts(inputs: ReportInputs) -> dict[str, Any]:
    """From the manifests: that of the run first, then those of its stages; the date is the earliest
    start."""
    manifests = [inputs.manifest, *(stage.manifest for stage in inputs.stages)]

    def first(key: str) -> Any:
        return next((m[key] for m in manifests if m.get(key) is not None), None)

    versions = first("versions") or {}
    return {
        "command": first("command"),
        "version": versions.get("accord", accord.__version__),
        "seed": first("seed"),
        "machine": first("machine"),
        "date": min((m["started"] for m in manifests if m.get("started")), default=None),
        "seconds": _total_seconds(inputs.stages),
        "versions": versions,
    }


def _total_seconds(stages: Sequence[StageRecord]) -> float | None:
    """The time of all stages; that of `iterate` includes the stages in its folder."""
    rounds = {stage.folder for stage in stages if stage.kind == "iterate"}
    outer = [stage for stage in stages if not rounds.intersection(stage.folder.parents)]
    seconds = [stage.seconds for stage in outer if stage.seconds is not None]
    return sum(seconds) if seconds else None
