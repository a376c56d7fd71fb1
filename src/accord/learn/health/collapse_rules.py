"""Rules on what a model answers during training: one answer to all, and refusals that change."""

from __future__ import annotations

from collections.abc import Sequence

from accord.learn.health.history import HealthRemark, MetricHistory, Row, is_number

REPEATED = "completions/repeated_across_prompts"
DISTINCT = "completions/distinct_share"
MAX_REPEATED = 0.3
"""Share of answers that another prompt gets too, by which it may rise before there is a warning."""
MIN_DISTINCT = 0.4
"""Share of the answers to a prompt that differ, below which a model has few answers left."""
MAX_REFUSAL_CHANGE = 0.15
"""Rise of harmful compliance or over-refusal since the first grading that is warned of."""
_SAFETY = (
    ("safety/harmful_compliance", "weakened refusals", "harmful prompts that are not refused"),
    ("safety/over_refusal", "over-refusal", "harmless prompts that are refused"),
)


def collapse_health(history: MetricHistory) -> list[HealthRemark]:
    """Whether the answers to different prompts, or those to one, have become the same."""
    remarks = []
    first, last = history.first(REPEATED), history.last(REPEATED)
    rose = first is not None and last is not None and last - first > MAX_REPEATED
    if rose and history.moved(REPEATED):
        text = (
            f"{last:.0%} of the answers are also given to another prompt, word for word; "
            f"{first:.0%} were at first. The policy answers without reading the prompt. "
            f"Raise beta, lower learning_rate, or go back to an earlier checkpoint."
        )
        remarks.append(HealthRemark("one answer to many prompts", "warning", text))
    first, last = history.first(DISTINCT), history.last(DISTINCT)
    if first is None or last is None or last > MIN_DISTINCT or last > first / 2:
        return remarks
    if history.moved(DISTINCT):
        text = (
            f"Of the answers to one prompt {last:.0%} differ, {first:.0%} did at first: the policy "
            f"has few answers left, and groups of equal answers teach nothing. Raise beta or "
            f"temperature, or stop earlier."
        )
        remarks.append(HealthRemark("few answers to a prompt", "warning", text))
    return remarks


def refusal_health(rows: Sequence[Row]) -> list[HealthRemark]:
    """Whether refusals have changed since the first grading on `safety_dataset`."""
    remarks = []
    for name, about, what in _SAFETY:
        values = [float(row[name]) for row in rows if is_number(row.get(name))]
        if len(values) < 2 or values[-1] - values[0] <= MAX_REFUSAL_CHANGE:
            continue
        text = (
            f"The share of {what} went from {values[0]:.0%} to {values[-1]:.0%} since the first "
            f"grading. Add preferences that show what to refuse and what to answer, raise beta, or "
            f"go back to an earlier checkpoint."
        )
        remarks.append(HealthRemark(about, "warning", text))
    return remarks
