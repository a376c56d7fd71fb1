"""The types of results.json, and docs/results.md, which is generated from them.

Regenerate it with `python -m accord.report.schema > docs/results.md`; a test compares the two, and
another checks a written file against the types.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_type_hints

from typing_extensions import TypedDict  # pydantic checks no other before Python 3.12

from accord.measure.audits.audit import Verdict
from accord.measure.measures import Measure, results_measures
from accord.report.rating_results import (
    CategoryJson,
    CategoryRatingJson,
    ComparisonJson,
    IntervalJson,
    LengthControlledJson,
    MomentJson,
    NextPairJson,
    RatedRunJson,
    RatingsJson,
    RoundJson,
    RoundsJson,
    StyleEffectJson,
    StyleJson,
    StyleRatingJson,
    UnclearPairJson,
)

_INTRODUCTION = """\
# results.json

<!-- Written by `python -m accord.report.schema > docs/results.md`; do not edit by hand. -->

`accord report` writes results.json beside the page, with the same numbers. What was not measured is
null. Types are those of JSON: a number, a text, a list, a table (an object). A measure with an
interval has two more keys: `KEY_low` and `KEY_high`, the bounds of its 95% interval, where null is
an open or unknown end. The independent units of all intervals are prompts.
"""


class FindingJson(TypedDict):
    """A sentence of the page."""

    level: Annotated[Literal["warning", "good", "note"], "What kind of news it is."]
    text: Annotated[str, "The sentence."]


class VerdictJson(TypedDict):
    """The answer of the page."""

    headline: Annotated[str, "Which model is best, and what speaks against it."]
    support: Annotated[str, "By how much, with intervals."]
    findings: Annotated[list[FindingJson], "What was seen, warnings first."]
    cost: Annotated[str, "What the best model costs; empty where nothing is known."]


class SampleJson(TypedDict):
    """A case behind an audit's number. All text is a model's: escape it before it is shown."""

    prompt: Annotated[str, "The prompt."]
    response: Annotated[str, "The response."]
    other: Annotated[str | None, "What the response is compared with."]
    note: Annotated[str, "What to see in it."]
    scores: Annotated[dict[str, float | None], "Scores of the case by their names."]


class ThresholdJson(TypedDict):
    """The limits of an audit."""

    warn: Annotated[float, "Values beyond it are warned of."]
    fail: Annotated[float, "The audit fails where the whole interval lies beyond it."]
    bad: Annotated[Literal["high", "low"], "Which side of a limit is beyond it."]
    why: Annotated[str, "The reason for the limits."]


class AuditJson(TypedDict):
    """One audit."""

    name: Annotated[str, "Its name, as `--fail-on` takes it."]
    group: Annotated[str, "The heading that it stands under."]
    question: Annotated[str, "What is asked."]
    verdict: Annotated[Verdict, "The answer."]
    finding: Annotated[str, "What was seen, in a sentence."]
    value: Annotated[IntervalJson | None, "The number that decides."]
    unit: Annotated[str, "Its unit: share, number, words, nats or ratio."]
    threshold: Annotated[ThresholdJson | None, "Its limits."]
    count: Annotated[int, "How many cases the value comes from."]
    cases: Annotated[str, "What a case is, such as prompts."]
    needed: Annotated[int | None, "How many more cases would decide, where it is undecided."]
    samples: Annotated[list[SampleJson], "Cases to read."]
    details: Annotated[dict[str, Any], "Further numbers of this audit."]
    lineage: Annotated[dict[str, Any], "What the number was computed from."]


class AuditDocumentJson(TypedDict):
    """The content of an audit.json, a redteam.json or a probe.json."""

    kind: Annotated[Literal["probe", "audit", "redteam"], "The command that wrote it."]
    version: Annotated[str, "The version of accord that wrote it."]
    subject: Annotated[str, "The model or the reward."]
    verdict: Annotated[Verdict, "The worst verdict of all audits."]
    audits: Annotated[list[AuditJson], "The audits."]
    results: Annotated[dict[str, Any], "Further tables of the command."]
    notes: Annotated[list[str], "What was left out or not measured."]
    settings: Annotated[dict[str, Any], "The command's settings."]


class RunJson(TypedDict):
    """The run as a whole."""

    command: Annotated[str | None, "The command that started it."]
    version: Annotated[str, "The version of accord."]
    seed: Annotated[int | None, "Its seed."]
    machine: Annotated[Any, "The machine."]
    date: Annotated[str | None, "When its first stage started."]
    seconds: Annotated[float | None, "The time of all stages."]
    versions: Annotated[dict[str, str], "The versions of the packages that it used."]


class Results(TypedDict):
    """The whole file."""

    models: Annotated[list[dict[str, Any]], "A row for each model: see below."]
    reward_model: Annotated[
        dict[str, Any] | None, "The accuracy of the reward model on held-out comparisons."
    ]
    judges: Annotated[
        dict[str, Any],
        "Who rated and scored, and what each judge did for the models that it measures.",
    ]
    run: Annotated[RunJson, "The run."]
    notes: Annotated[list[str], "Notes on the ratings."]
    ratings: Annotated[RatingsJson | None, "What else the battles say about the models."]
    rounds: Annotated[list[RoundsJson], "The rounds of each `iterate` stage."]
    audits: Annotated[list[AuditDocumentJson], "Every file of audits in the run."]
    verdict: Annotated[VerdictJson, "The answer."]


TABLES = (
    ("The file", Results),
    ("`verdict`", VerdictJson),
    ("`verdict.findings`", FindingJson),
    ("`run`", RunJson),
    ("`ratings`", RatingsJson),
    ("`ratings.comparisons`", ComparisonJson),
    ("`ratings.length_controlled`", LengthControlledJson),
    ("`ratings.style`", StyleJson),
    ("`ratings.style.effects`", StyleEffectJson),
    ("`ratings.style.models`", StyleRatingJson),
    ("`ratings.categories`", CategoryJson),
    ("`ratings.categories.models`", CategoryRatingJson),
    ("`ratings.runs`", RatedRunJson),
    ("`ratings.runs.moments`", MomentJson),
    ("`ratings.not_distinguished`", UnclearPairJson),
    ("`ratings.next_pairs`", NextPairJson),
    ("`rounds`", RoundsJson),
    ("`rounds.rounds`", RoundJson),
    ("`audits`", AuditDocumentJson),
    ("`audits.audits`", AuditJson),
    ("`threshold`", ThresholdJson),
    ("`samples`", SampleJson),
    ("An interval", IntervalJson),
)


def results_page() -> str:
    """The page in Markdown."""
    return "\n".join([_INTRODUCTION, *_models(), *_tables()])


def _models() -> Iterator[str]:
    yield "## `models`\n"
    yield "| key | type | meaning |"
    yield "|---|---|---|"
    yield "| `model` | text | its name |"
    for measure in results_measures():
        keys = f"`{measure.key}`, `{measure.key}_low`, `{measure.key}_high`"
        key = keys if measure.interval else f"`{measure.key}`"
        yield f"| {key} | {_measure_type(measure)} | {measure_meaning(measure)} |"
    yield "| `ceiling` | true or false | selected by the true reward: never the best model |"
    yield ""


def measure_meaning(measure: Measure) -> str:
    """What a measure is, in a phrase."""
    column = measure.models or measure.rounds
    return measure.meaning or (column.meaning if column is not None else "")


def _measure_type(measure: Measure) -> str:
    kinds = {"kl_kind": "text", "refusals_ungraded": "table of numbers"}
    return kinds.get(measure.key, "number")


def _tables() -> Iterator[str]:
    for title, table in TABLES:
        yield f"## {title}\n"
        yield f"{(table.__doc__ or '').strip()}\n"
        yield "| key | type | meaning |"
        yield "|---|---|---|"
        for key, hint in get_type_hints(table, include_extras=True).items():
            kind, meaning = get_args(hint)
            yield f"| `{key}` | {_type_name(kind)} | {meaning} |"
        yield ""


def _type_name(kind: Any) -> str:
    """A type in the words of JSON."""
    if kind is Any:
        return "any"
    if isinstance(kind, type) and issubclass(kind, dict):
        return "table"
    names = {str: "text", int: "number", float: "number", type(None): "null", list: "list"}
    if kind in names:
        return names[kind]
    origin, arguments = getattr(kind, "__origin__", None), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {_type_name(arguments[0])}s"
    if origin is dict:
        return "table"
    return " or ".join(dict.fromkeys(_type_name(argument) for argument in arguments))


if __name__ == "__main__":
    sys.stdout.write(results_page())
