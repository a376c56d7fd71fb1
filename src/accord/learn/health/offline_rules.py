"""What the metrics of an offline run say: pairs, margins, lengths, held-out losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accord.learn.health.history import HealthRemark, MetricHistory, Row

DISPLACED = 0.1  # nats a token that the chosen may lose without a remark
HARMFUL = 0.5  # nats a token from which it is a warning in any case
ACCURATE = 0.7
NO_MARGIN = 0.02  # reward margin, in nats after beta
LONGER = 1.3  # ratio of lengths
SATURATED = 0.05  # of the first loss
OVERFITTED = 0.1  # share by which the held-out loss is above its least


def offline_health(history: MetricHistory, settings: Mapping[str, Any]) -> list[HealthRemark]:
    """Remarks on a run that trains on rows; none where their metrics were not logged."""
    return [
        *_displacement(history, settings),
        *_margins(history),
        *_lengths(history),
        *_saturation(history),
        *_overfitting(history.rows),
    ]


def _nats(history: MetricHistory, side: str, settings: Mapping[str, Any]) -> float | None:
    """How the log-prob of the chosen or rejected responses changed.

    Where there is a reference, by the log-ratios to it: they do not depend on which rows a step
    has. Rewards are beta times these, unless an f-divergence transforms them.
    """
    ratio = history.change(f"logratios/{side}")
    if ratio is not None:
        return ratio
    reward, beta = history.change(f"rewards/{side}"), settings.get("beta")
    straight = settings.get("f_divergence_type", "reverse_kl") == "reverse_kl"
    if "ref_model" in settings and straight and reward is not None and beta:
        return reward / float(beta)
    return history.change(f"logps/{side}")


def _displacement(history: MetricHistory, settings: Mapping[str, Any]) -> list[HealthRemark]:
    """Likelihood displacement: the chosen responses themselves become less likely."""
    chosen, rejected = (_nats(history, side, settings) for side in ("chosen", "rejected"))
    length = history.last("lengths/chosen")
    if chosen is None or rejected is None or not length:
        return []
    a_token = chosen / length
    if a_token > -DISPLACED:
        return []
    margin = history.change("rewards/margins") or 0.0
    held_out = history.change("eval/rewards/accuracies")
    text = (
        f"The chosen responses lost {-chosen:.1f} nats ({-a_token:.2f} a token) while the rejected "
        f"lost {-rejected:.1f}. "
    )
    remedy = (
        "Add `sft` to loss_type, raise beta, or stop earlier, and look at the model's own answers."
    )
    if a_token < -HARMFUL:
        text += f"That is far: the probability has gone to answers nobody compared. {remedy}"
        return [HealthRemark("likelihood displacement", "warning", text)]
    if margin <= 0 or (held_out is not None and held_out < 0):
        text += f"Nothing was gained for it. {remedy}"
        return [HealthRemark("likelihood displacement", "warning", text)]
    text += (
        "The order of the pairs improved, so this is common and need not harm; whether it does, "
        "the model's own answers show (true reward, arena)."
    )
    return [HealthRemark("likelihood displacement", "note", text)]


def _margins(history: MetricHistory) -> list[HealthRemark]:
    accuracy, margin = history.last("rewards/accuracies"), history.last("rewards/margins")
    if accuracy is None or margin is None or accuracy < ACCURATE or margin > NO_MARGIN:
        return []
    text = (
        f"Rewards agree with {accuracy:.0%} of the preferences, but by a margin of {margin:.3f} "
        f"only: the model has hardly moved. Train longer, or raise learning_rate."
    )
    return [HealthRemark("accuracy without margin", "note", text)]


def _lengths(history: MetricHistory) -> list[HealthRemark]:
    chosen, rejected = history.last("lengths/chosen"), history.last("lengths/rejected")
    if not chosen or not rejected or 1 / LONGER < chosen / rejected < LONGER:
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
    if accuracy < 0.99 or abs(loss) > SATURATED * abs(first):
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
    step, least = min(losses, key=lambda pair: pair[1])
    last = losses[-1][1]
    if last - least <= OVERFITTED * abs(least):
        return []
    text = (
        f"The held-out loss was least at step {step} ({least:.3f}) and is {last:.3f} now: "
        f"overfitted. Fewer epochs, or a lower learning_rate."
    )
    return [HealthRemark("overfitting", "warning", text)]
