"""Estimators of KL(π‖π_ref) from tokens sampled from π. Schulman 2020, "Approximating KL".

`log_ratio` is log π − log π_ref of each token, of any shape; one value per token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_k1(log_ratio: Tensor) -> Tensor:
    """log π − log π_ref: unbiased; single values may be negative."""
    return log_ratio


def kl_k2(log_ratio: Tensor) -> Tensor:
    """½·(log π − log π_ref)²: biased, low variance."""
    return 0.5 * log_ratio.square()


def kl_k3(log_ratio: Tensor) -> Tensor:
    """r − 1 − log r with r = π_ref/π: unbiased and never negative."""
    return torch.expm1(-log_ratio) + log_ratio
