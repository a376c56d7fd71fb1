"""redteam.json: the audits of all models, and tables by attack, category and language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from accord.measure.audits.attack_rates import Attempt, compliance_rate, refusal_rate
from accord.measure.audits.attack_success import GraderError
from accord.measure.audits.audit import Audit
from accord.measure.audits.document import AuditDocument
from accord.measure.audits.redteam import redteam_audits
from accord.measure.audits.redteam_data import DIRECT, RedteamData, Tolerance
from accord.pipeline.redteam.plan import RedteamPlan
from accord.reasoning import split_reasoning
from accord.records import Message, Prompt, prompt_from_json, prompt_text
from accord.settings.redteam import RedteamSettings

AXES = ("over_refusal", "harmful_compliance", "jailbreak_success")
UNUSABLE = "unusable"
PEOPLE = "people"

Rows = Sequence[Mapping[str, Any]]
ReadAttempt = Callable[[str], Mapping[str, Any]]


def make_document(
    plan: RedteamPlan,
    rows_by_model: Mapping[str, Rows],
    harm: Mapping[str, float],
    judge: str | None,
    read: ReadAttempt,
) -> AuditDocument:
    """The document from the logged attempts of each model, and harm by the attempt's key. `read`
    gives an attempt with its texts by its key."""
    settings = plan.settings
    audits: list[Audit] = []
    models: dict[str, Any] = {}
    notes = _notes(plan, rows_by_model)
    for name, rows in rows_by_model.items():
        attempts = [_graded(plan, row, harm, read) for row in rows if row["verdict"] != UNUSABLE]
        group = "safety" if len(rows_by_model) == 1 else f"safety of {name}"
        data = RedteamData(
            attempts, grader_error(settings), tolerance(settings), judge if harm else None, group
        )
        of_model = redteam_audits(data)
        audits += of_model
        models[name] = _tables(data, rows, of_model)
        notes += [f"{name}: {note}" for note in _notes_on(rows)]
    return AuditDocument(
        "redteam",
        ", ".join(rows_by_model),
        tuple(audits),
        settings.model_dump(mode="json"),
        {
            "suites": [suite.to_json() for suite in plan.suites],
            "models": models,
            "frontier": frontier(models),
            "grader": settings.grader.model_dump(mode="json"),
            "judge": judge,
        },
        tuple(notes),
    )


def grader_error(settings: RedteamSettings) -> GraderError:
    """The refusal grader's error, as one of refusals."""
    grader = settings.grader
    return GraderError(grader.refusals_found, grader.refusals, grader.answers_found, grader.answers)


def tolerance(settings: RedteamSettings) -> Tolerance:
    return Tolerance(
        settings.max_harmful_compliance,
        settings.max_over_refusal,
        settings.max_jailbreak_success,
        settings.max_harm,
        tuple(sorted(set(settings.at_attempts))),
    )


def frontier(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each model's over-refusal against its harmful compliance and jailbreak success, and which
    models are better in one of the three and worse in none.

    A model with an unknown rate is compared with none.
    """
    points = {name: {axis: table["rates"][axis] for axis in AXES} for name, table in models.items()}

    def dominates(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        if any(x[axis] is None for x in (a, b) for axis in AXES):
            return False
        values = [(a[axis]["mean"], b[axis]["mean"]) for axis in AXES]
        return all(x <= y for x, y in values) and any(x < y for x, y in values)

    return [
        {
            "model": name,
            **point,
            "dominated_by": [
                other
                for other, rates in points.items()
                if other != name and dominates(rates, point)
            ],
        }
        for name, point in points.items()
    ]


def answer_as_judged(row: Mapping[str, Any]) -> str:
    """The answer that a reader sees: what was written of it in the model's stead, and the rest
    behind its reasoning."""
    turns = prompt_from_json(row["turns"])
    begun = "" if isinstance(turns, str) or turns[-1].role != "assistant" else turns[-1].content
    return begun + (split_reasoning(row.get("text", ""), row.get("opened", "")).answer or "")


def _sent(turns: Prompt) -> str:
    if isinstance(turns, str):
        return turns
    return prompt_text(tuple(Message(turn.role, turn.content) for turn in turns))


def _texts(key: str, read: ReadAttempt) -> tuple[str, str]:
    """What was sent, and the answer, read from the log."""
    row = read(key)
    return _sent(prompt_from_json(row["turns"])), answer_as_judged(row)


def _graded(
    plan: RedteamPlan, row: Mapping[str, Any], harm: Mapping[str, float], read: ReadAttempt
) -> Attempt:
    prompt = plan.prompts[row["prompt_id"]]
    return Attempt(
        prompt.id,
        prompt.request,
        partial(_texts, row["key"], read),
        prompt.is_harmful,
        row["attack"],
        row["verdict"],
        prompt.suite,
        prompt.category,
        prompt.language,
        harm.get(row["key"]),
    )


def _tables(data: RedteamData, rows: Rows, audits: Sequence[Audit]) -> dict[str, Any]:
    values = {audit.name: audit.value.to_json() for audit in audits}
    attacks = {DIRECT: compliance_rate(data.direct, data.error).to_json()} if data.direct else {}
    attacks |= {name: rate.to_json() for name, rate in data.rates.items()}
    return {
        "rates": {axis: values[axis] for axis in AXES},
        "attacks": attacks,
        "categories": _by(data, "category"),
        "languages": _by(data, "language"),
        "suites": _by(data, "suite"),
        "calls": sum(row.get("calls", 0) for row in rows),
        "prompt_tokens": sum(row.get("prompt_tokens", 0) for row in rows),
        "answer_tokens": sum(row.get("answer_tokens", 0) for row in rows),
    }


def _by(data: RedteamData, field: str) -> dict[str, Any]:
    """Harmful compliance and over-refusal, of prompts as they are, by a field of the prompts."""
    names = sorted({getattr(a, field) for a in (*data.direct, *data.harmless)})
    table = {}
    for name in names:
        direct = [a for a in data.direct if getattr(a, field) == name]
        harmless = [a for a in data.harmless if getattr(a, field) == name]
        table[name or "none"] = {
            "harmful_compliance": compliance_rate(direct, data.error).to_json() if direct else None,
            "over_refusal": refusal_rate(harmless, data.error).to_json() if harmless else None,
        }
    return table


def _notes(plan: RedteamPlan, rows_by_model: Mapping[str, Rows]) -> list[str]:
    notes = []
    for suite in plan.suites:
        dropped = "; ".join(f"{len(rows)} × {reason}" for reason, rows in suite.dropped.items())
        if dropped:
            notes.append(f"Left out of {suite.name}: {dropped}.")
    languages = sorted({p.language for suite in plan.suites for p in suite.prompts} - {"en"})
    if languages:
        notes.append(
            f"The grader's error was measured in English. In {', '.join(languages)} it finds the "
            "usual refusals only, so compliance there is an upper bound and refusal a lower one."
        )
    notes.append(
        "Rates are corrected by the grader's error on other models' answers (`grader`). Label some "
        "of these answers, and give its error on them, where much depends on it."
    )
    return notes


def _notes_on(rows: Rows) -> list[str]:
    notes = []
    unusable = [row for row in rows if row["verdict"] == UNUSABLE]
    if unusable:
        reasons = sorted({row["unusable"] for row in unusable})
        notes.append(
            f"{len(unusable):,} attempts could not be made, and count for nothing: "
            f"{'; '.join(reasons[:3])}."
        )
    ungraded = sum(row["verdict"] == "ungraded" for row in rows)
    if ungraded:
        notes.append(
            f"{ungraded:,} answers are in a language that can't be graded; they count neither as "
            "refusals nor as compliance."
        )
    cut = sum(not row.get("finished", True) for row in rows)
    if cut:
        notes.append(f"{cut:,} of {len(rows):,} answers were cut by max_new_tokens.")
    return notes
