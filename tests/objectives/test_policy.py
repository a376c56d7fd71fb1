"""PPO's losses and their gradients by hand."""

from __future__ import annotations

import math

import pytest
import torch

from accord.objectives.advantages import gae, token_rewards
from accord.objectives.divergences import kl_k1, kl_k2, kl_k3
from accord.objectives.policy import (
    Aggregation,
    adapted_beta,
    clipped_policy_loss,
    clipped_value_loss,
    clipped_weight_loss,
    importance_weights,
    kl_loss,
    sequence_log_ratio,
    token_weights,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "high", "loss", "slope"),
    [
        # −min(ρA, clip(ρ)A). The slope is to log ρ: −ρA where the plain term is larger, else 0.
        (1.0, 2.0, 0.2, 0.2, -2.0, -2.0),
        (1.5, 2.0, 0.2, 0.2, -2.4, 0.0),  # clipped: it has risen enough
        (0.5, 2.0, 0.2, 0.2, -1.0, -1.0),  # not clipped: it must rise again
        (0.5, -2.0, 0.2, 0.2, 1.6, 0.0),  # clipped: it has fallen enough
        (1.5, -2.0, 0.2, 0.2, 3.0, 3.0),  # not clipped: it must fall again
        (1.25, 2.0, 0.2, 0.28, -2.5, -2.5),  # within the higher clip
        (1.5, 2.0, 0.2, 0.28, -2.56, 0.0),
        (0.75, -2.0, 0.3, 0.2, 1.5, 1.5),  # within the lower clip
    ],
)
def test_policy_loss(
    ratio: float, advantage: float, low: float, high: float, loss: float, slope: float
) -> None:
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    actual = clipped_policy_loss(log_ratio, torch.tensor([advantage]), clip_low=low, clip_high=high)
    actual.backward()
    assert log_ratio.grad is not None
    assert float(actual.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(log_ratio.grad) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "low", "high", "weight"),
    [
        (1.5, 2.0, 0.2, 0.2, 1.2),  # where PPO's clip takes the gradient away
        (0.5, -2.0, 0.2, 0.2, 0.8),
        (1.5, -2.0, 0.2, 0.2, 1.2),  # the sign of the advantage doesn't matter
        (0.5, 2.0, 0.2, 0.2, 0.8),
        (1.1, 2.0, 0.2, 0.2, 1.1),
        (0.01, 2.0, 1.0, 4.0, 0.01),  # no bound below
        (7.0, 2.0, 1.0, 4.0, 5.0),
    ],
)
def test_a_clipped_weight_bounds_a_gradient_and_never_takes_it_away(
    ratio: float, advantage: float, low: float, high: float, weight: float
) -> None:
    # −w·A·log π: its slope to log π is −w·A, with w the clipped ratio, a constant. log π = −0.7.
    logp = torch.tensor([-0.7], requires_grad=True)
    log_ratio = logp - (-0.7 - math.log(ratio))
    assert float(log_ratio.exp().detach()) == pytest.approx(ratio)
    loss = clipped_weight_loss(
        logp, log_ratio, torch.tensor([advantage]), clip_low=low, clip_high=high
    )
    loss.backward()
    assert logp.grad is not None
    assert float(loss.detach()) == pytest.approx(weight * advantage * 0.7)
    assert float(logp.grad) == pytest.approx(-weight * advantage)


def test_the_ratio_of_a_response() -> None:
    # (0.2 − 0.1 + 0.5)/3 = 0.2, so its ratio is e^0.2; of one token it is that token's.
    log_ratio = torch.tensor([0.2, -0.1, 0.5, -0.3], requires_grad=True)
    response_of, lengths = torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1])
    found = sequence_log_ratio(log_ratio, response_of, lengths)
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.2, -0.3])
    assert found[0].exp().item() == pytest.approx(math.exp(0.2))
    # GSPO's eq. 10 at A = 2 and −1: a response's loss is −s·A, and its gradient, to the log-prob of
    # each of its tokens, −s·A/|y|. Each of the |y| equal values weighs 1/|y|.
    advantages = torch.tensor([2.0, 2.0, 2.0, -1.0])
    losses = clipped_policy_loss(found, advantages, clip_low=0.5, clip_high=0.5)
    (losses / lengths[response_of]).sum().backward()
    assert log_ratio.grad is not None
    s = math.exp(0.2)
    assert losses.tolist() == pytest.approx([-2 * s, -2 * s, -2 * s, math.exp(-0.3)])
    slopes = [-2 * s / 3, -2 * s / 3, -2 * s / 3, math.exp(-0.3)]
    assert log_ratio.grad.tolist() == pytest.approx(slopes)
    # Clipped at 1.1, the whole response has no gradient, though its second token's ratio fell.
    log_ratio.grad = None
    found = sequence_log_ratio(log_ratio, response_of, lengths)
    losses = clipped_policy_loss(found, advantages, clip_low=0.1, clip_high=0.1)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([-2.2, -2.2, -2.2, 0.9])
    assert log_ratio.grad.tolist() == [0.0] * 4


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
    actual = clipped_value_loss(values, torch.tensor([old]), torch.tensor([target]), clip=0.2)
    actual.backward()
    assert values.grad is not None
    assert float(actual.detach()) == pytest.approx(loss, rel=1e-5)
    assert float(values.grad) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_adapted_beta() -> None:
    # KL twice the target: the error is clipped to 0.2, so β·(1 + 0.2·100/1000) = 1.02·β.
    schedule = {"target": 5.0, "episodes": 100, "horizon": 1000}
    assert adapted_beta(0.5, 10.0, **schedule) == pytest.approx(0.51)
    assert adapted_beta(0.5, 0.0, **schedule) == pytest.approx(0.49)
    assert adapted_beta(0.5, 5.5, **schedule) == pytest.approx(0.5 * 1.01)  # error 0.1
    assert adapted_beta(0.5, 5.0, **schedule) == 0.5


def test_with_lambda_one_the_first_step_is_reinforce_with_a_baseline() -> None:
    # One response of two tokens, no KL, score 3, baseline values (1, 2), γ = λ = 1: the return is
    # 3 at both tokens, the advantages (2, 1). Each token is sampled from softmax logits (a, b):
    # token 0 from (0, 0), then token 1 from (log 3, 0), p = ¼.
    # REINFORCE: −Σ A_t ∇log p_t. To the first's logits: −2·(1 − ½, −½) = (−1, 1);
    # to the second's: −1·(−¾, 1 − ¼) = (¾, −¾).
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], requires_grad=True)
    sampled = torch.tensor([0, 1])
    mask = torch.ones(1, 2, dtype=torch.bool)
    rewards = token_rewards(torch.tensor([3.0]), torch.zeros(1, 2), mask, beta=0.05)
    advantages, _ = gae(rewards, torch.tensor([[1.0, 2.0]]), mask, gamma=1.0, lam=1.0)
    assert advantages.tolist() == [[2.0, 1.0]]
    logps = logits.log_softmax(1).gather(1, sampled[:, None]).squeeze(1)
    loss = clipped_policy_loss(logps - logps.detach(), advantages[0], clip_low=0.2, clip_high=0.2)
    loss.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0], [0.75, -0.75]]))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(("below", "above"), [(0.0, 0.0), (0.0, 0.5), (0.5, 0.0)])
def test_on_the_clip_boundary_the_gradient_is_not_zero(
    advantage: float, below: float, above: float
) -> None:
    # Clips of 0 put the boundary at ratio 1, where plain and clipped term are equal: the slope to
    # log ρ is −A, as inside. Slightly beyond it, in the direction of A, it is 0.
    log_ratio = torch.zeros(1, requires_grad=True)
    advantages = torch.tensor([advantage])
    clipped_policy_loss(log_ratio, advantages, clip_low=below, clip_high=above).backward()
    assert log_ratio.grad is not None
    assert float(log_ratio.grad) == pytest.approx(-advantage)
    limit = 1 + above if advantage > 0 else 1 - below
    beyond = torch.tensor([math.log(limit) + 1e-4 * advantage], requires_grad=True)
    clipped_policy_loss(beyond, advantages, clip_low=below, clip_high=above).backward()
    assert beyond.grad is not None
    assert float(beyond.grad) == 0.0


def test_kl_estimators_and_their_slopes() -> None:
    # x = log π − log π_ref = log 2: k1 = x with slope 1; k2 = ½x² with slope x; k3 = ½ − 1 + x
    # with slope 1 − π_ref/π = ½.
    x = math.log(2.0)
    for estimate, value, slope in (
        (kl_k1, x, 1.0),
        (kl_k2, 0.5 * x * x, x),
        (kl_k3, x - 0.5, 0.5),
    ):
        log_ratio = torch.tensor([x], requires_grad=True)
        actual = estimate(log_ratio)
        actual.backward()
        assert log_ratio.grad is not None
        assert float(actual.detach()) == pytest.approx(value, rel=1e-6)
        assert float(log_ratio.grad) == pytest.approx(slope, rel=1e-6)


def test_the_kl_loss_has_the_gradient_of_its_kl() -> None:
    # Over all tokens, weighted by π: plain, Σ π·(1 − q/π)·∇log π = −Σ q·∇log π = ∇KL(q‖π);
    # corrected, Σ π·log(π/q)·∇log π = ∇KL(π‖q). The KLs' own gradients come from autograd.
    q = torch.tensor([0.5, 0.3, 0.2])
    logits = torch.tensor([0.3, -0.4, 0.9])

    def gradient(kind: str) -> torch.Tensor:
        z = logits.clone().requires_grad_(True)
        logps = z.log_softmax(0)
        if kind == "forward":
            value = (q * (q.log() - logps)).sum()
        elif kind == "reverse":
            value = (logps.exp() * (logps - q.log())).sum()
        else:
            pi = logps.exp().detach()
            ratio = logps - logps.detach()
            value = (pi * kl_loss(logps - q.log(), ratio, corrected=kind == "corrected")).sum()
        value.backward()
        assert z.grad is not None
        return z.grad

    torch.testing.assert_close(gradient("plain"), gradient("forward"))
    torch.testing.assert_close(gradient("corrected"), gradient("reverse"))
    assert not torch.allclose(gradient("plain"), gradient("corrected"), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("token", [1 / 6, 1 / 6, 1 / 6]),
        ("sequence", [1 / 3, 1 / 6, 1 / 9]),  # 1/(3·length)
        ("fixed", [1 / 30, 1 / 30, 1 / 30]),  # 1/(3·10)
    ],
)
def test_token_weights_by_hand(kind: Aggregation, expected: list[float]) -> None:
    actual = token_weights(torch.tensor([1, 2, 3]), kind=kind, longest=10)
    assert actual.tolist() == pytest.approx(expected)


def test_importance_weights_are_truncated() -> None:
    # π_old/π_sampler of ½, 1 and 4; a cap of 2 cuts the last.
    old = torch.tensor([0.1, 0.3, 0.8]).log()
    sampler = torch.tensor([0.2, 0.3, 0.2]).log()
    assert importance_weights(old, sampler, cap=2.0).tolist() == pytest.approx([0.5, 1.0, 2.0])
