"""Rules on the metrics of an offline run: log-probs, margins, lengths, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.learn.health.history import HealthRemark, MetricHistory, Row

MAX_DISPLACEMENT = 0.1  # nats a token that chosen responses may lose without a remark
HARMFUL_DISPLACEMENT = 0.5  # nats a token; a larger loss is a warning in any case
HIGH_ACCURACY = 0.7  # share of preferences
SMALL_MARGIN = 0.02  # of rewards, in nats times beta
MAX_LENGTH_RATIO = 1.3
SATURATED_LOSS = 0.05  # of the first loss
MAX_LOSS_RISE = 0.1  # of the held-out loss above its minimum, as a share of it


def offline_health(history: MetricHistory, settings: Mapping[str, Any]) -> list[HealthRemark]:
    """Remarks on a run that trains on rows; none where the metrics were not logged."""
    return [
        *_displacement(history, settings),
        *_margins(history),
        *_lengths(history),
        *_saturation(history),
        *_overfitting(history.rows),
    ]


def _log_prob_change(
    history: MetricHistory, side: str, settings: Mapping[str, Any]
) -> float | None:
    """The change of the chosen or rejected responses' log-prob, in nats.

    With a reference it is the change of the log-ratios, which depend less on a step's rows.
    Rewards are beta times the log-ratios, unless an f-divergence transforms them.
    """
    ratio = history.change(f"logratios/{side}")
    if ratio is not None:
        return ratio
    reward, beta = history.change(f"rewards/{side}"), settings.get("beta")
    is_linear = settings.get("f_divergence_type", "reverse_kl") == "reverse_kl"
    if "ref_model" in settings and is_linear and reward is not None and beta:
        return reward / float(beta)
    return history.change(f"logps/{side}")


def _displacement(history: MetricHistory, settings: Mapping[str, Any]) -> list[HealthRemark]:
    """Likelihood displacement: the chosen responses themselves become less likely."""
    chosen, rejected = (
        _log_prob_change(history, side, settings) for side in ("chosen", "rejected")
    )
    length = history.last("lengths/chosen")
    if chosen is None or rejected is None or not length:
        return []
    per_token = chosen / length
    if per_token > -MAX_DISPLACEMENT:
        return []
    margin = history.change("rewards/margins") or 0.0
    held_out = history.change("eval/rewards/accuracies")
    text = (
        f"The chosen responses lost {-chosen:.1f} nats ({-per_token:.2f} a token) while the "
        f"rejected lost {-rejected:.1f}. "
    )
    remedy = (
        "Add `sft` to loss_type, raise beta, or stop earlier, and read the model's own answers."
    )
    if per_token < -HARMFUL_DISPLACEMENT:
        text += f"That is much: the probability has moved to answers nobody compared. {remedy}"
        return [HealthRemark("likelihood displacement", "warning", text)]
    if margin <= 0 or (held_out is not None and held_out < 0):
        text += f"Nothing was gained for it. {remedy}"
        return [HealthRemark("likelihood displacement", "warning", text)]
    text += (
        "The order of the pairs improved, so this is common and need not harm. The model's own "
        "answers show whether it does (true reward, arena)."
    )
    return [HealthRemark("likelihood displacement", "note", text)]


def _margins(history: MetricHistory) -> list[HealthRemark]:
    accuracy, margin = history.last("rewards/accuracies"), history.last("rewards/margins")
    if accuracy is None or margin is None or accuracy < HIGH_ACCURACY or margin > SMALL_MARGIN:
        return []
    text = (
        f"Rewards agree with {accuracy:.0%} of the preferences, but by a margin of {margin:.3f} "
        f"only: the model has hardly moved. Train longer, or raise learning_rate."
    )
    return [HealthRemark("accuracy without margin", "note", text)]


def _lengths(history: MetricHistory) -> list[HealthRemark]:
    chosen, rejected = history.last("lengths/chosen"), history.last("lengths/rejected")
    if not chosen or not rejected or 1 / MAX_LENGTH_RATIO < chosen / rejected < MAX_LENGTH_RATIO:
        return []
    which = "longer" if chosen > rejected else "shorter"
    text = (
        f"Chosen responses are {which} ({chosen:.0f} tokens against {rejected:.0f}), so length "
        f"alone is rewarded. Compare at equal length in the report; `ld_alpha` (DPO) or "
        f"`length_regularisation` (reward) take length out."
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


def _overfitting(rows: Sequence[Row]) -> list[HealthRemark]:
    losses = [(int(r["step"]), float(r["eval/loss"])) for r in rows if r.get("eval/loss")]
    if len(losses) < 3:
        return []
    step, lowest = min(losses, key=lambda pair: pair[1])
    last = losses[-1][1]
    if last - lowest <= MAX_LOSS_RISE * abs(lowest):
        return []
    text = (
        f"The held-out loss was lowest at step {step} ({lowest:.3f}) and is {last:.3f} now: "
        f"overfitted. Fewer epochs, or a lower learning_rate."
    )
    return [HealthRemark("overfitting", "warning", text)]
