"""Guards of an online run: the KL limit, rollback, and checks of the probability ratio."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.errors import TrainingError
from accord.learn.loop.processes import processes
from accord.learn.loop.state import TrainState, restore_tensors, state_tensors
from accord.learn.online.episodes import Episodes
from accord.learn.online.metrics import mean_kl
from accord.runs import storage_errors
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)

BETA_FACTOR = 1.5  # of max_kl_action=raise_beta
RATE_FACTOR = 0.5  # of max_kl_action=rollback
MAX_ROLLBACKS = 3  # in a row; the last of them stops the run
# Mean |log ratio| allowed before the first step: to the pass before, and to sampling. A single
# token of a deep model in bf16 may differ by more.
RATIO_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
SAMPLER_TOLERANCE = {"fp32": 1e-2, "bf16": 0.1}


@dataclass(slots=True)
class OnlineState:
    """What an online run counts and adapts; a checkpoint saves it.

    `beta` is the present KL coefficient, `rate_scale` a factor of all learning rates. `rollbacks`
    and `skipped` count iterations in a row. `stopped`: the KL limit ended the run.
    `replaced_prompts` counts the prompts of the order that were drawn in place of others: the next
    iteration starts behind them.
    """

    beta: float
    rate_scale: float = 1.0
    rollbacks: int = 0
    skipped: int = 0
    stopped: bool = False
    num_tokens: int = 0
    replaced_prompts: int = 0


@dataclass(frozen=True, slots=True)
class KlDecision:
    """Whether the run stops, or the weights were rolled back; else the iteration's steps are
    taken."""

    stops: bool = False
    rolled_back: bool = False

    @property
    def metrics(self) -> dict[str, float]:
        return {"stopped_by_kl": float(self.stops), "rolled_back": float(self.rolled_back)}

    @property
    def takes_steps(self) -> bool:
        return not (self.stops or self.rolled_back)


def apply_kl_limit(
    state: TrainState[OnlineState], episodes: Episodes, settings: OnlineSettings
) -> KlDecision:
    """Compare an iteration's KL with `max_kl` before its steps, and act as `max_kl_action` says.

    `raise_beta` multiplies beta by 1.5, from this iteration's advantages on. `rollback` restores
    the weights and moments of the last start below the limit, skips the iteration and halves the
    learning rate, so that smaller steps stay below it. Where that start exceeds the limit again
    and again, or there is none, the run stops. All of it is in the state, so a resumed run
    decides the same.
    """
    progress = state.progress
    kl = mean_kl(episodes) if settings.max_kl is not None else 0.0
    if settings.max_kl is None or not kl > settings.max_kl:
        progress.rollbacks = 0
        return KlDecision()
    message = f"The KL is {kl:.3g} nats an episode, above max_kl={settings.max_kl:g}"
    if settings.max_kl_action == "raise_beta":
        progress.beta = BETA_FACTOR * progress.beta
        log.warning("%s: beta is %.3g from now on.", message, progress.beta)
        return KlDecision()
    progress.rollbacks += 1
    exhausted = progress.rollbacks == MAX_ROLLBACKS
    if settings.max_kl_action == "stop" or not state.snapshot or exhausted:
        log.warning("%s: training stops.", message)
        return KlDecision(stops=True)
    restore_snapshot(state)
    progress.rate_scale = RATE_FACTOR * progress.rate_scale
    log.warning(
        "%s: back to the last weights below it, at %g of the learning rate from now on.",
        message,
        progress.rate_scale,
    )
    return KlDecision(rolled_back=True)


@torch.no_grad()
def take_snapshot(
    state: TrainState[OnlineState], storage: Literal["memory", "disk"], folder: Path | None
) -> None:
    """Copy the state's weights and moments, replacing an earlier snapshot.

    On disk they are a memory-mapped file in the folder, each process's own; it uses memory only
    while it is read. The file is unlinked at once, so that nothing remains of it when the process
    ends, however it ends.
    """
    state.snapshot = {}
    if storage == "memory" or folder is None:
        state.snapshot = {n: t.to("cpu", copy=True) for n, t in state_tensors(state).items()}
        return
    path = folder / f"start-{processes().rank}.safetensors"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_tensors(state), path)
        state.snapshot = load_file(path)
        path.unlink()


def restore_snapshot(state: TrainState[OnlineState]) -> None:
    """Restore the snapshot's weights and moments, and clear all gradients."""
    restore_tensors(state, state.snapshot)
    clear_gradients(state)


def clear_gradients(state: TrainState[OnlineState]) -> None:
    """Clear the gradients of a step that is not taken."""
    for learner in state.learners.values():
        learner.clear_gradients()


def check_ratio_is_one(
    log_ratio: Tensor, sampler_log_ratio: Tensor, *, precision: str, off_policy: bool
) -> None:
    """Before an iteration's first step, raise TrainingError unless log π/π_old (R,) is 0, and, if
    the policy itself sampled, log π_old/π_sampler (R,) too, within rounding."""
    mean = float(log_ratio.detach().abs().mean())
    if mean > RATIO_TOLERANCE[precision]:
        raise _ratio_error(mean, "recorded for the same tokens")
    mean = float(sampler_log_ratio.detach().abs().mean())
    if not off_policy and mean > SAMPLER_TOLERANCE[precision]:
        raise _ratio_error(mean, "its tokens were sampled with")


def _ratio_error(mean: float, recorded: str) -> TrainingError:
    return TrainingError(
        f"Before the first step the policy's log-probs differ by {mean:.3g} nats on average from "
        f"those {recorded}, so the ratio is not 1. The model does not give the same numbers "
        f"twice: look for dropout or state in it."
    )
