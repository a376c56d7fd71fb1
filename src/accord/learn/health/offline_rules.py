"""Rules on the metrics of an offline run: log-probs, margins, lengths, losses.

A step's metrics are those of a few rows. So a rule reads the held-out rows, which are the same at
each evaluation, or as many steps as it can, and says nothing where chance could explain the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from accord.learn.health.evidence import Evidence, exact_bounds
from accord.learn.health.history import HealthRemark, MetricHistory

MAX_DISPLACEMENT = 0.1  # nats a token that chosen responses may lose without a remark
HARMFUL_DISPLACEMENT = 0.5  # nats a token; a larger loss is a warning in any case
HIGH_ACCURACY = 0.7  # share of preferences
SMALL_MARGIN = 0.02  # of rewards, in nats times beta
MAX_LENGTH_RATIO = 1.3
SATURATED_LOSS = 0.05  # of the first loss
MAX_LOSS_RISE = 0.1  # of the held-out loss above its minimum, as a share of it
MIN_HELD_OUT = 30  # rows; the mean of fewer rises by a tenth through one row that fits badly


def offline_health(
    history: MetricHistory, settings: Mapping[str, Any], held_out: int | None, *, finished: bool
) -> list[HealthRemark]:
    """Remarks on a run that trains on rows; none where the metrics were not logged.

    `held_out` is the number of held-out rows, None where it is unknown.
    """
    evidence = Evidence(history, settings, held_out)
    return [
        *_displacement(evidence),
        *_margins(evidence),
        *_order(evidence, finished),
        *_lengths(evidence),
        *_saturation(history),
        *_overfitting(evidence),
    ]


def _displacement(evidence: Evidence) -> list[HealthRemark]:
    """Likelihood displacement: the chosen responses themselves become less likely."""
    chosen, rejected = (evidence.log_prob_change(side) for side in ("chosen", "rejected"))
    length = evidence.mean_length("chosen")
    if chosen is None or rejected is None or not length:
        return []
    per_token = chosen / length
    if per_token > -MAX_DISPLACEMENT:
        return []
    where = " on held-out rows" if evidence.is_held_out("logps/chosen") else ""
    lost = f"the rejected lost {-rejected:.1f}"
    if rejected >= 0:
        lost = f"the rejected gained {rejected:.1f}"
    text = (
        f"The chosen responses lost {-chosen:.1f} nats ({-per_token:.2f} a token){where} while "
        f"{lost}. "
    )
    remedy = (
        "Add `sft` to loss_type, raise beta, or stop earlier, and read the model's own answers."
    )
    if per_token < -HARMFUL_DISPLACEMENT:
        text += f"That is much: the probability has moved to answers nobody compared. {remedy}"
        return [HealthRemark("likelihood displacement", "warning", text)]
    if evidence.margin_change() <= 0 or evidence.held_out_accuracy_fell():
        text += f"Nothing was gained for it. {remedy}"
        return [HealthRemark("likelihood displacement", "warning", text)]
    text += (
        "The order of the pairs improved, so this is common and need not harm. The model's own "
        "answers show whether it does (true reward, arena)."
    )
    return [HealthRemark("likelihood displacement", "note", text)]


def _margins(evidence: Evidence) -> list[HealthRemark]:
    accuracy, rows = evidence.accuracy()
    margin = evidence.late("rewards/margins")
    if accuracy is None or margin is None or accuracy < HIGH_ACCURACY or margin > SMALL_MARGIN:
        return []
    low, high = exact_bounds(accuracy, rows)
    if low <= 0.5:
        return []
    text = (
        f"Rewards agree with {accuracy:.0%} of {evidence.rows_name(rows)} ({low:.0%} to "
        f"{high:.0%}), but by a margin of {margin:.3f} only: the model has hardly moved. Train "
        f"longer, or raise learning_rate."
    )
    return [HealthRemark("accuracy without margin", "note", text)]


def _order(evidence: Evidence, finished: bool) -> list[HealthRemark]:
    """At the end: whether held-out rows show that the order of pairs was learned at all."""
    accuracy, rows = evidence.last_held_out("rewards/accuracies"), evidence.held_out
    if not finished or accuracy is None or not rows:
        return []
    low, high = exact_bounds(accuracy, rows)
    if low > 0.5:
        return []
    share = f"{accuracy:.0%} of {rows:,} held-out pairs ({low:.0%} to {high:.0%})"
    if high < 0.5:
        text = f"Rewards order only {share} as they were preferred: fewer than chance would."
        return [HealthRemark("held-out order", "warning", f"{text} Are the columns exchanged?")]
    text = (
        f"Rewards order {share} as they were preferred: chance alone would be within this range, "
        f"so the data do not show that anything was learned. Train longer, raise learning_rate, "
        f"or hold out more rows to see a small gain."
    )
    return [HealthRemark("held-out order", "note", text)]


def _lengths(evidence: Evidence) -> list[HealthRemark]:
    chosen, rejected = evidence.all_lengths()
    if not chosen or not rejected or 1 / MAX_LENGTH_RATIO < chosen / rejected < MAX_LENGTH_RATIO:
        return []
    is_longer = chosen > rejected
    if not evidence.lengths_differ():
        return []
    held_out = [evidence.last_held_out(f"lengths/{side}") for side in ("chosen", "rejected")]
    beside = ""
    if held_out[0] is not None and held_out[1] is not None:
        if (held_out[0] > held_out[1]) is not is_longer:
            return []  # the two sets disagree, so that neither speaks for the data
        beside = f"; {held_out[0]:.0f} against {held_out[1]:.0f} on held-out rows"
    which = "longer" if is_longer else "shorter"
    text = (
        f"Over all steps so far, chosen responses are {which} ({chosen:.0f} tokens against "
        f"{rejected:.0f}{beside}), so being {which} is rewarded by itself. Compare at equal length "
        f"in the report; `ld_alpha` (DPO) or `length_regularisation` (reward) take length out."
    )
    return [HealthRemark("length", "note", text)]


def _saturation(history: MetricHistory) -> list[HealthRemark]:
    first, loss = history.first("loss"), history.second_half("loss")
    accuracy = history.second_half("rewards/accuracies")
    if first is None or loss is None or accuracy is None:
        return []
    if accuracy < 0.99 or abs(loss) > SATURATED_LOSS * abs(first):
        return []
    text = (
        f"Saturated: in the second half rewards agreed with {accuracy:.0%} of the preferences and "
        f"the loss was {loss:.3f}, so steps only widen margins. Fewer epochs give the same, nearer "
        f"to the reference."
    )
    return [HealthRemark("saturation", "note", text)]


def _overfitting(evidence: Evidence) -> list[HealthRemark]:
    losses = evidence.held_out_series("loss")
    if len(losses) < 3:
        return []
    step, lowest = min(losses, key=lambda pair: pair[1])
    last = losses[-1][1]
    if not math.isfinite(lowest) or last - lowest <= MAX_LOSS_RISE * abs(lowest):
        return []
    text = f"The held-out loss was lowest at step {step} ({lowest:.3f}) and is {last:.3f} now"
    if evidence.held_out is not None and evidence.held_out < MIN_HELD_OUT:
        text += (
            f", on {evidence.held_out} rows: too few to show whether the model is overfitted. Hold "
            f"out {MIN_HELD_OUT} rows or more."
        )
        return [HealthRemark("overfitting", "note", text)]
    text += ": overfitted. Fewer epochs, or a lower learning_rate."
    return [HealthRemark("overfitting", "warning", text)]
