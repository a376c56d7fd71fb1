"""All audits of a model's responses, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

from accord.measure.audits.audit import Audit
from accord.measure.audits.broken import HELD_OUT, TASK
from accord.measure.audits.curves import (
    CurvePoint,
    best_of_n_points,
    over_optimisation_audit,
)
from accord.measure.audits.diversity import diversity_audits
from accord.measure.audits.refusals import refusal_audits
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.rewards import disagreement_audit, reward_audits
from accord.measure.audits.wording import wording_audits
from accord.measure.audits.yes_no import QUESTIONS
from accord.measure.responses import Nested

AUDIT_NAMES = (
    "independent_gain",
    "length_gain",
    "ensemble_disagreement",
    "over_optimisation",
    "best_of_n",
    "over_refusal",
    "harmful_compliance",
    "refusals",
    "one_answer",
    "shared_answers",
    "diversity_per_prompt",
    "diversity_across_prompts",
    "length",
    "flattery",
    "hedging",
    "repetition",
    "shared_wording",
    "stock_phrase",
    "lost_phrase",
    HELD_OUT,
    QUESTIONS,
)
"""The names of all audits of a model, but those of tasks, whose names the settings give."""


OPTIONAL = {
    "ensemble_disagreement": "`ensemble`",
    "best_of_n": "a reward, an independent measure, and two responses to each prompt",
    "over_optimisation": "`curve` with a reward and an independent measure",
    f"{TASK}…": "`tasks`",
    HELD_OUT: "`held_out`",
    QUESTIONS: "`questions`",
}
"""Audits that are made only where the setting that they need is given."""


def model_audits(
    data: BeforeAndAfter,
    *,
    members: tuple[Sequence[Nested], Sequence[Nested]] | None = None,
    curve: Sequence[CurvePoint] = (),
) -> list[Audit]:
    """The audits that need responses and scores alone.

    `members` are the scores of an ensemble's members before and after, and `curve` the points of
    growing optimisation; without them their audits are not made.
    """
    audits = reward_audits(data)
    if data.proxy_before is not None and data.independent_before is not None:
        points = best_of_n_points(data.proxy_before, data.independent_before)
        if len(points) > 1:
            question = "Does choosing answers by the reward improve them?"
            audits.append(
                over_optimisation_audit(
                    points,
                    name="best_of_n",
                    question=question,
                    confidence=data.confidence,
                    limits=data.limits,
                )
            )
    if members is not None:
        audits.append(disagreement_audit(data, *members))
    if curve:
        audit = over_optimisation_audit(curve, confidence=data.confidence, limits=data.limits)
        audits.append(audit)
    return [*audits, *refusal_audits(data), *diversity_audits(data), *wording_audits(data)]
