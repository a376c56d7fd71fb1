"""All audits of a model's responses, in the order of the report."""

from __future__ import annotations

from collections.abc import Sequence

from accord.measure.audits.audit import Audit
from accord.measure.audits.curves import CurvePoint, over_optimisation_audit
from accord.measure.audits.refusals import refusal_audits
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.rewards import reward_audits
from accord.measure.responses import Nested


def model_audits(
    data: BeforeAndAfter,
    *,
    members: tuple[Sequence[Nested], Sequence[Nested]] | None = None,
    curve: Sequence[CurvePoint] = (),
) -> list[Audit]:
    """The audits that need responses and scores alone.

    `members` are the scores of an ensemble's members before and after, and `curve` the points of
    growing optimisation; what is not given is not measured, and its audit says so.
    """
    return [
        *reward_audits(data, members),
        over_optimisation_audit(curve, confidence=data.confidence),
        *refusal_audits(data),
    ]
