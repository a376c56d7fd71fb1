"""Metrics of the probability ratio of a pass's tokens, and of what was clipped of it."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.learn.loop.objective import Metric, metric
from accord.learn.online.methods import OnlineMethod, clip_range
from accord.objectives.divergences import kl_k3
from accord.settings.online import OnlineSettings


@torch.no_grad()
def ratio_metrics(
    method: OnlineMethod,
    settings: OnlineSettings,
    policy_loss: Tensor,
    log_ratio: Tensor,
    clipped_log_ratio: Tensor,
    advantages: Tensor,
) -> dict[str, Metric]:
    """Metrics of the tokens (R,) of a pass; `clipped_log_ratio` is the log of the ratio that the
    method clips."""
    low, high = clip_range(settings)
    clipped_ratio, ratio = clipped_log_ratio.exp(), log_ratio.exp()
    below, above = clipped_ratio < 1 - low, clipped_ratio > 1 + high
    metrics = {
        "loss/policy_avg": metric(policy_loss),
        "policy/approxkl_avg": metric(kl_k3(-log_ratio)),
        "policy/clipfrac_avg": metric((below | above).float()),
        "val/ratio": metric(ratio),
        "val/ratio_var": metric((ratio - ratio.mean()).square()),
    }
    if method.logs_group_metrics:
        metrics["clip_ratio/low_mean"] = metric((below & (advantages < 0)).float())
        metrics["clip_ratio/high_mean"] = metric((above & (advantages > 0)).float())
    return metrics
