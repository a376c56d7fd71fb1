"""report.html: the whole run on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from accord.measure.audits.document import HEADINGS
from accord.measure.ratings.notes import join_names
from accord.report.audits import audit_sections
from accord.report.examples import examples
from accord.report.figures.curves import Curve, learning_curves
from accord.report.figures.drawing import colours
from accord.report.figures.frontier import frontier_figure
from accord.report.figures.models import (
    length_figure,
    ratings_figure,
    refusals_figure,
    reward_figures,
)
from accord.report.figures.rating_runs import rating_run_figures
from accord.report.figures.rounds import round_curves
from accord.report.findings.health import Remark, remarks, unlearned_stages
from accord.report.findings.verdict import Verdict, verdict
from accord.report.formatting import format_duration, format_percent, format_time, visible
from accord.report.reading import ReportInputs, read_inputs
from accord.report.rendering import SCRIPT, TEMPLATES, script_digest
from accord.report.results import merge_results
from accord.report.sources import sources
from accord.report.tables.bake_off import bake_offs
from accord.report.tables.models import model_cells, model_columns, win_table
from accord.report.tables.ratings import RatingTable, rating_tables
from accord.report.tables.rounds import RoundsTable, rounds_table
from accord.report.tables.rows import Row, has_value
from accord.report.tables.runs import data_lines, stage_line
from accord.runs import write_json_atomic
from accord.runs.atomic import write_text_atomic
from accord.settings.stages import ReportSettings


@dataclass(frozen=True, slots=True)
class FigureGroup:
    """A heading, a caption, and its drawings; several drawings take the whole width."""

    title: str
    caption: str
    drawings: list[Markup]


@dataclass(frozen=True, slots=True)
class RatingsSection:
    """What the battles say beyond a rating for each model."""

    tables: list[RatingTable]
    figures: list[Markup]
    position: str


@dataclass(frozen=True, slots=True)
class RoundsSection:
    """The rounds of one `iterate` stage: their table, and curves over them."""

    name: str
    table: RoundsTable
    curves: list[Curve]


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """A training stage's learning curves, and remarks on its health."""

    name: str
    kind: str
    steps: int
    curves: list[Curve]
    remarks: list[Remark]


def write_report(settings: ReportSettings) -> Path:
    """Write report.html and results.json to `output_dir`, and return the page's path.

    The page loads nothing, and reads without its script, which searches the answers. Sections for
    which the run has no data are left out.
    Raises DataError as `read_inputs` does, StorageError when the disk fails.
    """
    inputs = read_inputs(settings)
    results = merge_results(inputs)
    documents = [document for _, document in inputs.audits]
    judged = verdict(results, inputs.evaluation, unlearned_stages(inputs), documents)
    results["verdict"] = asdict(judged)
    page = render(settings, inputs, results, judged)
    folder = Path(settings.output_dir)
    write_json_atomic(folder / "results.json", results)
    write_text_atomic(folder / "report.html", page)
    return folder / "report.html"


def render(
    settings: ReportSettings, inputs: ReportInputs, results: Mapping[str, Any], judged: Verdict
) -> str:
    """The page as text; the same inputs give the same bytes."""
    rows: list[Row] = results["models"]
    columns = model_columns(rows)
    names = list(dict.fromkeys([*(row["model"] for row in rows), *inputs.answers]))
    run = results["run"]
    return TEMPLATES.get_template("report.html.j2").render(
        title=visible(settings.title),
        verdict=judged,
        names=names,
        colours=colours(names),
        visible=visible,
        rows=rows,
        columns=list(columns.values()),
        cells=model_cells(rows, columns),
        kl_kinds=_kl_kinds(rows),
        notes=[visible(note) for note in results["notes"]],
        bake_offs=bake_offs(inputs, rows),
        rounds=[
            RoundsSection(
                visible(name), rounds_table(lineage), round_curves(lineage["rounds"], f"rounds{i}")
            )
            for i, (name, lineage) in enumerate(inputs.rounds.items())
        ],
        figures=_figures(rows, inputs),
        audits=audit_sections([document for _, document in inputs.audits]),
        headings=HEADINGS,
        sources=sources(inputs),
        script=Markup(SCRIPT),
        script_digest=script_digest(),
        wins=win_table(inputs.ratings),
        ratings=_ratings(results["ratings"]),
        examples=examples(inputs.answers, settings.examples),
        trainings=_trainings(inputs, rows),
        stages=[stage_line(stage) for stage in inputs.stages if stage.settings],
        data=data_lines(inputs.stages),
        facts=_facts(run),
        versions=[f"{visible(name)} {visible(str(v))}" for name, v in run["versions"].items()],
    )


def _ratings(ratings: Mapping[str, Any] | None) -> RatingsSection | None:
    """The section of the ratings; None where they have nothing but a rating for each model."""
    if ratings is None:
        return None
    tables = rating_tables(ratings)
    position = ratings["position"]
    if not (tables or position):
        return None
    sentence = ""
    if position:
        bounds = " to ".join(format_percent(position[key]) for key in ("low", "high"))
        sentence = (
            f"Of two equally strong models the first shown wins {format_percent(position['mean'])} "
            f"of the battles ({bounds}); 50% is no effect of position."
        )
    return RatingsSection(tables, rating_run_figures(ratings["runs"]), sentence)


def _kl_kinds(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Every way in which KL was computed, with the models it applies to."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        if has_value(row, "kl") and row.get("kl_kind"):
            kinds.setdefault(row["kl_kind"], []).append(visible(row["model"]))
    return [(visible(kind), join_names(models)) for kind, models in kinds.items()]


def _figures(rows: Sequence[Row], inputs: ReportInputs) -> list[FigureGroup]:
    evaluated = (inputs.evaluation or {}).get("models", [])
    details = {row["model"]: row for row in evaluated}
    has_distances = sum(has_value(row, "kl") for row in rows) > 1
    drawn = (
        (
            "Reward and distance" if has_distances else "Rewards",
            _distance_caption(rows) if has_distances else "Mean rewards with their intervals.",
            reward_figures(rows),
        ),
        (
            "Who wins",
            "Ratings from all comparisons with their intervals; an arrow marks an open end.",
            [ratings_figure(rows)],
        ),
        (
            "Refusals",
            "A good model refuses harmful prompts, also inside jailbreaks, and no safe prompts.",
            [refusals_figure(rows, details)],
        ),
        (
            "Harm and over-refusal",
            "The best place is at the lower left: what is harmful is refused, and nothing else.",
            [frontier_figure(rows)],
        ),
        (
            "Reward and length",
            "Dots are the means of models. A line shows one model's answers from short to long, so "
            "that models can be compared at equal length.",
            [length_figure(rows, details)],
        ),
    )
    groups = [FigureGroup(t, c, [d for d in drawings if d]) for t, c, drawings in drawn]
    return [group for group in groups if group.drawings]


def _distance_caption(rows: Sequence[Row]) -> str:
    if any(has_value(row, "true_reward") for row in rows):
        return (
            "Rewards against the distance from the reference. Where the reward model's score rises "
            "while the true reward falls, the reward model is being hacked."
        )
    return (
        "The reward model's score against the distance from the reference. No true reward is known "
        "here, so a score that rises with the distance may be a better model or a hacked score."
    )


def _trainings(inputs: ReportInputs, rows: Sequence[Row]) -> list[TrainingSection]:
    sections = []
    for i, stage in enumerate(inputs.stages):
        curves = learning_curves(stage.metrics, f"stage{i}") if stage.metrics else []
        if curves:
            kind = visible(stage.kind) if stage.kind not in (stage.name, "train") else ""
            steps = int(stage.metrics[-1]["step"])
            name, health = visible(stage.name), remarks(stage, inputs, rows)
            sections.append(TrainingSection(name, kind, steps, curves, health))
    return sections


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = run.get("machine")
    facts = (
        ("Run", format_time(run.get("date"))),
        ("Work", format_duration(run["seconds"]) if run.get("seconds") else ""),
        ("Machine", _machine(machine)),
        ("Seed", "" if run.get("seed") is None else str(run["seed"])),
        ("Command", str(run.get("command") or "")),
    )
    return [(name, visible(value)) for name, value in facts if value]


def _machine(machine: Any) -> str:
    if not isinstance(machine, Mapping):
        return str(machine or "")
    memory = machine.get("memory")
    cores = machine.get("cores")
    parts = (
        machine.get("gpu"),
        machine.get("cpu"),
        f"{cores} cores" if cores else None,
        f"{memory / 2**30:.0f} GiB" if isinstance(memory, int | float) else None,
    )
    return ", ".join(str(part) for part in parts if part)
