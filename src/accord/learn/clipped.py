"""The losses that PPO goes backward from, on some of an iteration's episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from accord.learn.losses import Metric, metric
from accord.learn.roles import Roles
from accord.learn.rollout import Episodes
from accord.lm.forward import (
    response_logps,
    response_logps_and_values,
    share_a_pass,
    token_values,
)
from accord.lm.packing import pack
from accord.objectives.divergences import kl_k3
from accord.objectives.policy import clipped_policy_loss, clipped_value_loss
from accord.settings.ppo import PpoSettings

RATIO = "policy/log_ratio_max"  # checked, not logged


@dataclass(frozen=True, slots=True)
class Targets:
    """What an iteration's steps are taken towards, all (E, T)."""

    advantages: Tensor
    returns: Tensor


def clipped_losses(
    roles: Roles,
    episodes: Episodes,
    targets: Targets,
    settings: PpoSettings,
    members: list[int],
    learns: bool,
) -> Iterator[tuple[Tensor, dict[str, Metric]]]:
    """Losses summed over the tokens of some episodes, each with metrics over them.

    Go backward from one before asking for the next: the policy's and the critic's passes are then
    never held at once. Where both share a pass there is one loss.
    """
    policy, critic = roles.policy, roles.critic
    assert critic is not None
    batch = pack([episodes.groups[i] for i in members], policy.device)
    heat = settings.temperature
    if share_a_pass(policy, critic):
        logps, values = response_logps_and_values(
            policy, critic, batch, temperature=heat, learns=learns
        )
        first, metrics = _policy_loss(logps, episodes, targets, settings, members)
        second, more = _value_loss(values, episodes, targets, settings, members)
        yield first + settings.vf_coef * second, metrics | more
        return
    with torch.set_grad_enabled(learns):
        logps = response_logps(policy, batch, temperature=heat)
    yield _policy_loss(logps, episodes, targets, settings, members)
    del logps
    value_loss, metrics = _value_loss(
        token_values(critic, batch), episodes, targets, settings, members
    )
    yield settings.vf_coef * value_loss, metrics


def _policy_loss(
    logps: Tensor, episodes: Episodes, targets: Targets, settings: PpoSettings, members: list[int]
) -> tuple[Tensor, dict[str, Metric]]:
    mask = episodes.mask[members]
    advantages = targets.advantages[members][mask].to(logps.device)
    log_ratio = logps - episodes.old_logps[members][mask].to(logps.device)
    high = settings.cliprange if settings.cliprange_high is None else settings.cliprange_high
    loss = clipped_policy_loss(log_ratio, advantages, clip_low=settings.cliprange, clip_high=high)
    with torch.no_grad():
        ratio = log_ratio.exp()
        outside = (ratio < 1 - settings.cliprange) | (ratio > 1 + high)
        metrics = {
            "loss/policy_avg": metric(loss),
            "policy/approxkl_avg": metric(kl_k3(-log_ratio)),
            "policy/clipfrac_avg": metric(outside.float()),
            "val/ratio": metric(ratio),
            "val/ratio_var": metric((ratio - ratio.mean()).square()),
            RATIO: (float(log_ratio.abs().max()), 1.0),
        }
    return loss.sum(), metrics


def _value_loss(
    values: Tensor, episodes: Episodes, targets: Targets, settings: PpoSettings, members: list[int]
) -> tuple[Tensor, dict[str, Metric]]:
    mask = episodes.mask[members]
    old = episodes.values[members][mask].to(values.device)
    returns = targets.returns[members][mask].to(values.device)
    loss = clipped_value_loss(values, old, returns, clip=settings.cliprange_value)
    with torch.no_grad():
        moved = (values - old).abs() > settings.cliprange_value
        metrics = {"loss/value_avg": metric(loss), "val/clipfrac_avg": metric(moved.float())}
    return loss.sum(), metrics
