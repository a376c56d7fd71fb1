"""results.json: one flat row a model, merged from evaluation.json and ratings.json."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

import accord
from accord.report.plain import duration, number, percent, visible
from accord.report.reading import ReportInputs, Stage, read_inputs
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings

_PLAIN = (
    "mean_length",
    "distinct_2",
    "duplicate_share",
    "refusal_harmful",
    "refusal_safe",
    "refusal_jailbreak",
    "diversity_per_prompt",
    "diversity_across_prompts",
    "finished_share",
    "prompts",
    "responses",
)


def write_results(settings: ReportSettings) -> dict[str, Any]:
    """Merge evaluation.json and ratings.json into `output_dir`/results.json, and return it.

    Raises DataError as `read_inputs` does, StorageError when the disk fails.
    """
    results = merge_results(read_inputs(settings))
    write_json_atomic(Path(settings.output_dir) / "results.json", results)
    return results


def merge_results(inputs: ReportInputs) -> dict[str, Any]:
    """The content of results.json: models in the contestants' order, others after them.

    What was not measured is null; a model that only one of the two files knows has a row as well.
    """
    evaluation, ratings = inputs.evaluation or {}, inputs.ratings or {}
    measured = {row["model"]: row for row in evaluation.get("models", [])}
    rated = {row["model"]: row for row in ratings.get("models", [])}
    order = [c.name for c in inputs.contestants if c.name in measured or c.name in rated]
    names = list(dict.fromkeys([*order, *measured, *rated]))
    trained = {c.name: _training(inputs, c.train) for c in inputs.contestants}
    return {
        "models": [
            _row(name, measured.get(name, {}), rated.get(name, {}), trained.get(name))
            for name in names
        ],
        "reward_model": evaluation.get("reward_model"),
        "run": _run(inputs),
        "notes": [str(note) for note in ratings.get("notes", [])],
    }


def terminal_table(results: Mapping[str, Any]) -> Table:
    """The rows as a table for the terminal; columns that no model has are left out."""
    table = Table(title=None, pad_edge=False, box=None, header_style="bold")
    rows = results["models"]
    table.add_column("model", overflow="fold")
    columns = [c for c in _COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    for _, heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        name = visible(row["model"]).replace("[", "\\[")  # no markup from a model's name
        table.add_row(name, *(show(row, key) for key, _, show in columns))
    return table


def _row(
    name: str, measured: Mapping[str, Any], rated: Mapping[str, Any], trained: Stage | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name}
    for key in ("true_reward", "reward_model_score", "kl"):
        interval = measured.get(key) or {}
        row[key] = interval.get("mean")
        row[f"{key}_low"], row[f"{key}_high"] = interval.get("low"), interval.get("high")
    row["kl_kind"] = measured.get("kl_kind")
    row["elo"], row["elo_low"], row["elo_high"] = (
        rated.get("rating"),
        rated.get("low"),
        rated.get("high"),
    )
    for key in ("battles", "wins", "losses", "ties"):
        row[key] = rated.get(key)
    row |= {key: measured.get(key) for key in _PLAIN}
    seconds = measured.get("seconds")
    row["seconds"] = trained.seconds if seconds is None and trained is not None else seconds
    return row


def _training(inputs: ReportInputs, folder: str | None) -> Stage | None:
    if folder is None:
        return None
    place = Path(folder).resolve()
    return next((stage for stage in inputs.stages if stage.folder.resolve() == place), None)


def _run(inputs: ReportInputs) -> dict[str, Any]:
    """What the run's manifest says; from a stage's where the run has none of its own."""
    manifests = [inputs.manifest, *(stage.manifest for stage in inputs.stages)]
    manifest = next((m for m in manifests if m), {})
    versions = manifest.get("versions") or {}
    return {
        "command": manifest.get("command"),
        "version": versions.get("accord", accord.__version__),
        "seed": manifest.get("seed"),
        "machine": manifest.get("machine"),
        "date": manifest.get("started"),
        "seconds": _seconds(inputs),
        "versions": versions,
    }


def _seconds(inputs: ReportInputs) -> float | None:
    """Work done by the stages; a run that was broken off and went on has no simpler length."""
    told = [stage.seconds for stage in inputs.stages if stage.seconds is not None]
    if told:
        return sum(told)
    try:
        started = datetime.fromisoformat(inputs.manifest["started"])
        finished = datetime.fromisoformat(inputs.manifest["finished"])
    except (KeyError, TypeError, ValueError):
        return None
    return (finished.astimezone(UTC) - started.astimezone(UTC)).total_seconds()


def _number(digits: int) -> Any:
    return lambda row, key: number(row.get(key), digits)


def _interval(digits: int) -> Any:
    def show(row: Mapping[str, Any], key: str) -> str:
        value, low, high = row.get(key), row.get(f"{key}_low"), row.get(f"{key}_high")
        if value is None or low is None or high is None:
            return number(value, digits)
        return f"{number(value, digits)} [dim]±{number((high - low) / 2, digits)}[/dim]"

    return show


def _share(row: Mapping[str, Any], key: str) -> str:
    return percent(row.get(key))


_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("true_reward", "true reward", _interval(3)),
    ("reward_model_score", "reward model", _interval(2)),
    ("kl", "KL", _number(2)),
    ("elo", "Elo", _interval(0)),
    ("mean_length", "words", _number(1)),
    ("distinct_2", "distinct-2", _number(2)),
    ("refusal_harmful", "refuses harm", _share),
    ("refusal_jailbreak", "jailbreaks", _share),
    ("refusal_safe", "safe", _share),
    ("seconds", "time", lambda row, key: duration(row.get(key))),
)
