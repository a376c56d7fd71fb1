"""results.json: one flat row a model, merged from evaluation.json and ratings.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import accord
from accord.report.plain import number, percent, spread, visible
from accord.report.reading import ReportInputs, Stage, read_inputs
from accord.runs import write_json_atomic
from accord.settings.stages import ReportSettings

REFUSAL_KINDS = ("harmful", "jailbreak", "safe")
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
    trained = {c.name: training_stage(inputs, c.train) for c in inputs.contestants}
    ceilings = {c.name for c in inputs.contestants if c.ceiling}
    return {
        "models": [
            _row(name, measured.get(name, {}), rated.get(name, {}), trained.get(name))
            | {"ceiling": name in ceilings}
            for name in names
        ],
        "reward_model": evaluation.get("reward_model"),
        "run": _run(inputs),
        "notes": [str(note) for note in ratings.get("notes", [])],
    }


def terminal_table(results: Mapping[str, Any]) -> Table:
    """The rows as a table of some 80 columns; what no model has is left out."""
    rows = results["models"]
    columns = [c for c in _COLUMNS if any(row.get(key) is not None for row in rows for key in c[1])]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", overflow="ellipsis", no_wrap=True, max_width=24)
    for heading, _, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        # Text, not markup: a model may be called "[red]".
        table.add_row(Text(visible(row["model"])), *(show(row) for _, _, show in columns))
    return table


def _row(
    name: str, measured: Mapping[str, Any], rated: Mapping[str, Any], trained: Stage | None
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name}
    for key in ("true_reward", "reward_model_score", "proxy_gain", "kl"):
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


def training_stage(inputs: ReportInputs, folder: str | None) -> Stage | None:
    """The stage that a contestant names as its training's, if it is among those read."""
    if folder is None:
        return None
    place = Path(folder).resolve()
    return next((stage for stage in inputs.stages if stage.folder.resolve() == place), None)


def _run(inputs: ReportInputs) -> dict[str, Any]:
    """What the manifests say: the run's own first, then its stages', the earliest start of all."""
    manifests = [inputs.manifest, *(stage.manifest for stage in inputs.stages)]

    def first(key: str) -> Any:
        return next((m[key] for m in manifests if m.get(key) is not None), None)

    versions = first("versions") or {}
    # The time of rounds is that of the stages in them.
    rounds = {stage.folder for stage in inputs.stages if stage.kind == "iterate"}
    outer = [stage for stage in inputs.stages if not rounds.intersection(stage.folder.parents)]
    told = [stage.seconds for stage in outer if stage.seconds is not None]
    return {
        "command": first("command"),
        "version": versions.get("accord", accord.__version__),
        "seed": first("seed"),
        "machine": first("machine"),
        "date": min((m["started"] for m in manifests if m.get("started")), default=None),
        "seconds": sum(told) if told else None,
        "versions": versions,
    }


def _with_spread(row: Mapping[str, Any], key: str, digits: int) -> Text:
    value = row.get(key)
    text = Text(number(value, digits))
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    if value is not None and low is not None and high is not None:
        # The wider side, so that a lopsided interval is not told as narrower than it is.
        small = f"±{max(high - value, value - low):.{digits}f}"
    else:
        small = spread(value, low, high, digits)
    return text.append(f" {small}", style="dim") if small and value is not None else text


def _refused(row: Mapping[str, Any]) -> str:
    return " ".join(f"{percent(row.get(f'refusal_{kind}')):>4}" for kind in REFUSAL_KINDS)


_Show = Callable[[Mapping[str, Any]], Text | str]

_COLUMNS: tuple[tuple[str, tuple[str, ...], _Show], ...] = (
    ("true\nreward", ("true_reward",), lambda row: _with_spread(row, "true_reward", 3)),
    ("reward\nmodel", ("reward_model_score",), lambda row: number(row.get("reward_model_score"))),
    ("\nKL", ("kl",), lambda row: number(row.get("kl"))),
    ("\nElo", ("elo",), lambda row: _with_spread(row, "elo", 0)),
    ("\nwords", ("mean_length",), lambda row: number(row.get("mean_length"), 1)),
    (
        "refuses\nharm jail safe",
        tuple(f"refusal_{kind}" for kind in REFUSAL_KINDS),
        _refused,
    ),
)
"""Heading, the keys of which one must be known, and how a row is shown."""
