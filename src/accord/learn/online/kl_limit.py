"""What happens when the policy is farther from its reference than it may be."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from accord.learn.loop.checkpoints import TrainState
from accord.learn.online.episodes import Episodes
from accord.learn.online.metrics import mean_kl
from accord.learn.online.rollback import restore_snapshot
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)

RAISED = 1.5  # what beta is multiplied by
SLOWED = 0.5  # what the learning rate is multiplied by
ROLLBACKS = 3  # in a row; the last of them stops


@dataclass(frozen=True, slots=True)
class Limit:
    """Whether an iteration's steps are taken, or the run stops, or weights were brought back."""

    stops: bool = False
    rolled_back: bool = False

    @property
    def goes_on(self) -> bool:
        return not (self.stops or self.rolled_back)


def within_limit(state: TrainState, episodes: Episodes, settings: OnlineSettings) -> Limit:
    """Look at an iteration's KL before its steps, and act as `max_kl_action` says.

    `raise_beta` multiplies beta by 1.5, from this iteration's advantages on. `rollback` brings
    back the weights and moments of the last start below the limit, skips the iteration and halves
    the learning rate: where a step was too large, smaller ones keep below. Where that start is
    above the limit again and again, or there was none, the run stops. All of it is in the state's
    numbers, so a run that goes on from a checkpoint does the same.
    """
    numbers = state.numbers
    kl = mean_kl(episodes) if settings.max_kl is not None else 0.0
    if settings.max_kl is None or not kl > settings.max_kl:
        numbers["rollbacks"] = 0
        return Limit()
    told = f"The KL is {kl:.3g} nats an episode, above max_kl={settings.max_kl:g}"
    if settings.max_kl_action == "raise_beta":
        numbers["beta"] = RAISED * float(numbers["beta"])
        log.warning("%s: beta is %.3g from now on.", told, numbers["beta"])
        return Limit()
    numbers["rollbacks"] = numbers.get("rollbacks", 0) + 1
    if settings.max_kl_action == "stop" or not state.snapshot or numbers["rollbacks"] == ROLLBACKS:
        log.warning("%s: training stops.", told)
        return Limit(stops=True)
    restore_snapshot(state)
    numbers["rate_scale"] = SLOWED * float(numbers.get("rate_scale", 1.0))
    log.warning(
        "%s: back to the last weights below it, at %g of the learning rate from now on.",
        told,
        numbers["rate_scale"],
    )
    return Limit(rolled_back=True)
