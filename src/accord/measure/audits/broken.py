"""Audits of what training broke: the user's own tasks, and the loss on held-out rows.

Pure functions of what was measured on the same rows before and after training.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from accord.measure.audits.audit import Audit, AuditSample, Limits, Threshold, make_audit
from accord.measure.audits.document import format_value
from accord.measure.statistics import (
    Interval,
    clustered_proportion,
    clustered_ratio,
    paired_shares_interval,
)

GROUP = "what it broke"
SAMPLES = 5
HELD_OUT, TASK = "held_out_loss", "task_"

ACCURACY = Threshold(
    -0.02,
    -0.05,
    "one answer in twenty that was right and is wrong now is what users of the task notice, and "
    "two in a hundred are as many as other details of training move",
    bad="low",
)
HELD_OUT_LOSS = Threshold(
    0.1,
    0.3,
    "by the scaling law of Kaplan et al. (2020) 0.1 nats more on a loss of 3 are what a third of "
    "a model's parameters is worth, and 0.3 nats two thirds of them",
)


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """What both models answered to the rows of a task [rows]; right_… says whether it was right."""

    name: str
    prompts: Sequence[str]
    accepted: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]
    right_before: Sequence[bool]
    right_after: Sequence[bool]


def mcnemar_p(lost: int, won: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947; Agresti 2013, 11.1.2).

    Of the pairs that changed, `lost` were right before only and `won` after only. Where neither
    direction is likelier, lost ~ Binomial(lost + won, ½): p = min(1, 2·P(X ≤ min(lost, won))). 1
    where no pair changed.
    """
    if lost < 0 or won < 0:
        raise ValueError(f"{lost} and {won} are no counts")
    return min(1.0, 2 * float(special.bdtr(min(lost, won), lost + won, 0.5)))


def task_audit(
    task: TaskOutcome,
    *,
    details: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> Audit:
    """How much the share of right answers rose on a task, and which answers became wrong.

    Undecided where the model before solves too few for a drop that fails to be possible.
    """
    before, after = list(map(float, task.right_before)), list(map(float, task.right_after))
    shares, value = shares_of(before), paired_shares_interval(by_row(before), by_row(after))
    after_share = shares_of(after)
    lost = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a > b]
    won = sum(b > a for a, b in zip(before, after, strict=True))
    p = mcnemar_p(len(lost), won)
    threshold = ACCURACY.limited(TASK + task.name, limits or {})
    finding = (
        f"Right answers: {format_value(shares, 'share')} before and "
        f"{format_value(after_share, 'share')} after; {len(lost):,} became wrong and {won:,} right "
        f"(McNemar's exact p = {p:.2g}). The change is {format_value(value, 'share')}."
    )
    audit = make_audit(
        TASK + task.name,
        group=GROUP,
        question=f"Does it still solve the task {task.name}?",
        finding=finding,
        value=value,
        threshold=threshold,
        count=len(before),
        unit="share",
        samples=[
            AuditSample(
                task.prompts[i],
                task.after[i],
                task.before[i],
                f"right before, wrong now; accepted: {task.accepted[i]}",
            )
            for i in lost[:SAMPLES]
        ],
        details={
            "before": shares.to_json(),
            "after": after_share.to_json(),
            "became_wrong": len(lost),
            "became_right": won,
            "mcnemar_p": p,
            **(details or {}),
        },
        lineage=lineage,
    )
    if shares.mean < -threshold.fail:
        return undecided(
            audit,
            f"The model before solves too few for a drop of {-100 * threshold.fail:g} points to be "
            "possible: give a task that it can do.",
        )
    return audit


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """The summed token log-loss of a row in nats under both models, and its number of tokens.

    Rows of one `cluster` (a prompt with several answers) count as one independent unit. `prompt`
    and `response` are what a sample shows.
    """

    prompt: str
    response: str
    tokens: int
    before: float
    after: float
    cluster: str = ""


def held_out_audit(
    rows: Sequence[HeldOutRow],
    *,
    lineage: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> Audit:
    """How much the mean token log-loss rose on the same tokens, in nats, with the rows (or the
    prompts that several rows share) as the independent units."""
    clusters: dict[str, np.ndarray] = {}
    for i, row in enumerate(rows):
        sums = np.array([row.before, row.after, row.tokens], dtype=np.float64)
        key = row.cluster or f"\0{i}"
        clusters[key] = clusters[key] + sums if key in clusters else sums
    table = np.array(list(clusters.values())).reshape(-1, 3)
    before, after = (clustered_ratio(table[:, side], table[:, 2]) for side in (0, 1))
    value = clustered_ratio(table[:, 1] - table[:, 0], table[:, 2])
    tokens = int(table[:, 2].sum())
    worst = heapq.nlargest(SAMPLES, rows, key=lambda row: (row.after - row.before) / row.tokens)
    return make_audit(
        HELD_OUT,
        group=GROUP,
        question="Does it still predict text that it was not trained on?",
        finding=(
            f"Mean log-loss of {tokens:,} tokens: {format_value(before, 'nats')} before and "
            f"{format_value(after, 'nats')} after (perplexity {_perplexity(before.mean)} and "
            f"{_perplexity(after.mean)}). The rise is {format_value(value, 'nats')} a token."
        ),
        value=value,
        threshold=HELD_OUT_LOSS.limited(HELD_OUT, limits or {}),
        count=len(table),
        cases="rows",
        unit="nats",
        samples=[
            AuditSample(
                row.prompt,
                row.response,
                note="the loss rose by the most",
                scores={"before": row.before / row.tokens, "after": row.after / row.tokens},
            )
            for row in worst
            if row.after > row.before
        ],
        details={
            "before": before.to_json(),
            "after": after.to_json(),
            "tokens": tokens,
            "rows": len(rows),
        },
        lineage=lineage,
    )


def by_row(values: Sequence[float]) -> list[list[float]]:
    """One value for each row, in the shape [rows][1]."""
    return [[value] for value in values]


def shares_of(values: Sequence[float]) -> Interval:
    """The mean of one value in [0, 1] for each row, with its exact interval."""
    return clustered_proportion(by_row(values))


def undecided(audit: Audit, why: str) -> Audit:
    """The audit without a verdict, for a reason that more cases alone would not remove."""
    return replace(audit, verdict="undecided", needed=None, finding=f"{audit.finding} {why}")


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):.3g}" if loss < 700 else "infinite"
