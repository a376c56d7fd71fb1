"""The rewards of f-divergences: derivatives of f, limits, order, extremes, and the optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from accord.objectives.f_divergences import (
    alpha_divergence_reward,
    forward_kl_reward,
    jensen_shannon_reward,
    reverse_kl_reward,
)
from accord.objectives.preference import dpo_loss, ipo_summed_loss
from tests.objectives.pair_losses import assert_finite_at

REWARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": reverse_kl_reward,
    "forward_kl": forward_kl_reward,
    "jensen_shannon": jensen_shannon_reward,
    "alpha_half": partial(alpha_divergence_reward, alpha=0.5),
}
# f of each divergence, from Wang et al. 2023, table 1.
GENERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda u: u * u.log(),
    "forward_kl": lambda u: -u.log(),
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "alpha_half": lambda u: (u**0.5 - 0.5 * u - 0.5) / (0.5 * -0.5),
}


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_the_derivative_of_f(name: str) -> None:
    ratio = torch.tensor([0.02, 0.3, 1.0, 2.5, 40.0], dtype=torch.float64, requires_grad=True)
    GENERATORS[name](ratio).sum().backward()
    assert ratio.grad is not None
    shifted = ratio.grad - ratio.grad[2]  # 0 at u = 1
    torch.testing.assert_close(REWARDS[name](ratio.detach().log()), shifted)


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_at_the_reference(name: str) -> None:
    # f'(1) = 0 and d f'(u)/d log u = f''(1)·1, which is 1 in each but Jensen-Shannon's, where
    # it is 1/(1·(1+1)) = ½.
    logratio = torch.zeros(1, requires_grad=True)
    reward = REWARDS[name](logratio)
    reward.backward()
    assert float(reward.detach()) == pytest.approx(0.0, abs=1e-7)
    assert logratio.grad is not None
    assert float(logratio.grad) == (0.5 if name == "jensen_shannon" else 1.0)


def test_by_hand() -> None:
    # u = 4: log 4; 1 − ¼; log(8/5); (1 − 4^−½)/½ = 1.
    logratio = torch.tensor([math.log(4)])
    expected = {
        "reverse_kl": math.log(4),
        "forward_kl": 0.75,
        "jensen_shannon": math.log(1.6),
        "alpha_half": 1.0,
    }
    for name, value in expected.items():
        assert float(REWARDS[name](logratio)) == pytest.approx(value), name


def test_alpha_leads_from_reverse_to_forward_kl() -> None:
    logratio = torch.linspace(-5, 5, 21, dtype=torch.float64)
    near_reverse = alpha_divergence_reward(logratio, alpha=1e-9)
    torch.testing.assert_close(near_reverse, logratio, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(alpha_divergence_reward(logratio, alpha=0.0), logratio)
    forward = 1 - torch.exp(-logratio)
    torch.testing.assert_close(alpha_divergence_reward(logratio, alpha=1.0), forward)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and at most 1"):
        alpha_divergence_reward(torch.zeros(1), alpha=alpha)


@pytest.mark.parametrize("name", REWARDS)
def test_the_reward_increases_with_the_log_ratio(name: str) -> None:
    logratio = torch.linspace(-200, 30, 461, dtype=torch.float64)
    assert bool((REWARDS[name](logratio).diff() > 0).all())


@pytest.mark.parametrize("name", REWARDS)
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    logratio = torch.tensor([-6.0, -0.3, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(REWARDS[name], (logratio,))


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_on_rewards_stay_finite(name: str, dtype: torch.dtype) -> None:
    reward = REWARDS[name]
    for loss in (dpo_loss, ipo_summed_loss):
        assert_finite_at(
            lambda c, r, loss=loss: loss(reward(c), reward(r), beta=0.5),
            [1e3, -1e3, 0.0, -40.0],
            dtype,
        )


def test_beyond_the_limit_the_reward_continues_along_the_tangent() -> None:
    # forward KL at log u = −32: the line through −30 with slope e³⁰, so 2·e³⁰ lower.
    logratio = torch.tensor([-30.0, -32.0], dtype=torch.float64, requires_grad=True)
    reward = forward_kl_reward(logratio)
    reward.sum().backward()
    assert float((reward[0] - reward[1]).detach()) == pytest.approx(2 * math.exp(30))
    assert logratio.grad is not None
    assert logratio.grad.tolist() == pytest.approx([math.exp(30)] * 2)


@pytest.mark.parametrize("name", REWARDS)
def test_the_optimal_policy_under_the_divergence_minimises_f_dpo(name: str) -> None:
    # Three responses with true rewards; π maximises Σπ·r − β·Σπ_ref·f(π/π_ref), found by gradient
    # ascent on its logits. Then β·(f'(u_i) − f'(u_j)) = r_i − r_j, which is what f-DPO fits.
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    truth = torch.tensor([0.0, 0.4, 0.9], dtype=torch.float64)
    beta = 1.0
    logits = reference.log().clone().requires_grad_()
    for _ in range(3000):
        policy = logits.softmax(0)
        gain = (policy * truth).sum()
        gain = gain - beta * (reference * GENERATORS[name](policy / reference)).sum()
        (gradient,) = torch.autograd.grad(gain, logits)
        with torch.no_grad():
            logits += 0.5 * gradient
    implied = beta * REWARDS[name]((logits.detach().softmax(0) / reference).log())
    torch.testing.assert_close(implied - implied[0], truth, rtol=1e-5, atol=1e-5)
