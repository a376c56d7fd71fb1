"""PPO's losses and their gradients by hand."""

from __future__ import annotations

import math

import pytest
import torch

from accord.objectives.advantages import gae, token_rewards
from accord.objectives.policy import adapted_beta, clipped_policy_loss, clipped_value_loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "high", "loss", "slope"),
    [
        # −min(ρA, clip(ρ)A). The slope is to log ρ: −ρA where the plain term counts, else 0.
        (1.0, 2.0, 0.2, 0.2, -2.0, -2.0),
        (1.5, 2.0, 0.2, 0.2, -2.4, 0.0),  # it has risen enough
        (0.5, 2.0, 0.2, 0.2, -1.0, -1.0),  # it must come back up: not clipped
        (0.5, -2.0, 0.2, 0.2, 1.6, 0.0),  # it has fallen enough
        (1.5, -2.0, 0.2, 0.2, 3.0, 3.0),  # it must come back down: not clipped
        (1.25, 2.0, 0.2, 0.28, -2.5, -2.5),  # within the higher clip
        (1.5, 2.0, 0.2, 0.28, -2.56, 0.0),
        (0.75, -2.0, 0.3, 0.2, 1.5, 1.5),  # within the lower clip
    ],
)
def test_policy_loss(
    ratio: float, advantage: float, low: float, high: float, loss: float, slope: float
) -> None:
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    found = clipped_policy_loss(log_ratio, torch.tensor([advantage]), clip_low=low, clip_high=high)
    found.backward()
    assert log_ratio.grad is not None
    assert float(found.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(log_ratio.grad) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        # ½·max((V−R)², (V_old + clip(V−V_old, ±0.2) − R)²)
        (1.1, 1.0, 2.0, 0.405, -0.9),  # within the clip both are (1.1 − 2)²
        (1.5, 1.0, 2.0, 0.32, 0.0),  # clipped to 1.2: ½·0.8², no gradient
        (2.5, 1.0, 0.0, 3.125, 2.5),  # away from the return: the plain one is larger
        (0.5, 1.0, 0.0, 0.32, 0.0),  # clipped to 0.8
    ],
)
def test_value_loss(value: float, old: float, target: float, loss: float, slope: float) -> None:
    values = torch.tensor([value], requires_grad=True)
    found = clipped_value_loss(values, torch.tensor([old]), torch.tensor([target]), clip=0.2)
    found.backward()
    assert values.grad is not None
    assert float(found.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(values.grad) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_adapted_beta() -> None:
    # KL twice the target: the error is clipped to 0.2, so β·(1 + 0.2·100/1000) = 1.02·β.
    known = {"target": 5.0, "episodes": 100, "horizon": 1000}
    assert adapted_beta(0.5, 10.0, **known) == pytest.approx(0.51)
    assert adapted_beta(0.5, 0.0, **known) == pytest.approx(0.49)
    assert adapted_beta(0.5, 5.5, **known) == pytest.approx(0.5 * 1.01)  # error 0.1
    assert adapted_beta(0.5, 5.0, **known) == 0.5


def test_with_lambda_one_the_first_step_is_reinforce_with_a_baseline() -> None:
    # One response of two tokens, no KL, score 3, baseline values (1, 2), γ = λ = 1: the return is
    # 3 at both tokens, the advantages (2, 1). Each token is drawn from softmax logits (a, b):
    # first from (0, 0), taken 0; then from (log 3, 0), taken 1, p = ¼.
    # REINFORCE: −Σ A_t ∇log p_t. To the first's logits: −2·(1 − ½, −½) = (−1, 1);
    # to the second's: −1·(−¾, 1 − ¼) = (¾, −¾).
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], requires_grad=True)
    taken = torch.tensor([0, 1])
    mask = torch.ones(1, 2, dtype=torch.bool)
    rewards = token_rewards(torch.tensor([3.0]), torch.zeros(1, 2), mask, beta=0.05)
    advantages, _ = gae(rewards, torch.tensor([[1.0, 2.0]]), mask, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[2.0, 1.0]]
    logps = logits.log_softmax(1).gather(1, taken[:, None]).squeeze(1)
    loss = clipped_policy_loss(logps - logps.detach(), advantages[0], clip_low=0.2, clip_high=0.2)
    loss.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0], [0.75, -0.75]]))
