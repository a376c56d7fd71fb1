"""Reward losses against probabilities by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from accord.objectives.reward import (
    bradley_terry_loss,
    centering_penalty,
    mean_minus_variance,
    plackett_luce_loss,
    worst_score,
)


def sequential_probability(scores: list[float], order: tuple[int, ...]) -> float:
    """P(order): the best sampled by softmax from all, the next from the rest, and so on."""
    remaining, probability = list(order), 1.0
    for chosen in order:
        probability *= math.exp(scores[chosen]) / sum(math.exp(scores[i]) for i in remaining)
        remaining.remove(chosen)
    return probability


def test_bradley_terry_by_hand() -> None:
    # Equal scores: −log ½. A difference of log 3: P = 3/4.
    loss = bradley_terry_loss(torch.tensor([1.0, math.log(3.0)]), torch.tensor([1.0, 0.0]))
    assert loss.tolist() == pytest.approx([math.log(2), -math.log(0.75)])
    # A margin of log 3 reduces the difference to 0.
    with_margin = bradley_terry_loss(
        torch.tensor([math.log(3.0)]), torch.tensor([0.0]), torch.tensor([math.log(3.0)])
    )
    assert with_margin.tolist() == pytest.approx([math.log(2)])


def test_bradley_terry_gradient() -> None:
    # d/dr_c −log σ(d) = −σ(−d); at d = log 3, −1/4. Opposite for the rejected.
    chosen = torch.tensor([math.log(3.0)], requires_grad=True)
    rejected = torch.tensor([0.0], requires_grad=True)
    bradley_terry_loss(chosen, rejected).backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert float(chosen.grad) == pytest.approx(-0.25)
    assert float(rejected.grad) == pytest.approx(0.25)


def test_plackett_luce_of_two_is_bradley_terry() -> None:
    scores = torch.tensor([0.3, -1.2])
    pair = bradley_terry_loss(scores[:1], scores[1:])
    assert float(plackett_luce_loss(scores, (0, 1))) == pytest.approx(float(pair))
    swapped = bradley_terry_loss(scores[1:], scores[:1])
    assert float(plackett_luce_loss(scores, (1, 0))) == pytest.approx(float(swapped))


def test_plackett_luce_of_three_is_the_enumerated_probability() -> None:
    scores = [0.5, -0.7, 1.1]
    total = 0.0
    for order in itertools.permutations(range(3)):
        ranks = [order.index(i) for i in range(3)]
        expected = sequential_probability(scores, order)
        actual = math.exp(-float(plackett_luce_loss(torch.tensor(scores), ranks)))
        assert actual == pytest.approx(expected, rel=1e-5)
        total += actual
    assert total == pytest.approx(1.0, abs=1e-5)  # there are no other orders


def test_tied_responses_share_a_denominator() -> None:
    # Ranks (0, 0, 1): both tied responses are sampled from all three, and the last is certain:
    # −log P = 2·log(e^a + e^b + e^c) − a − b.
    a, b, c = 0.2, 0.9, -0.4
    log_sum = math.log(math.exp(a) + math.exp(b) + math.exp(c))
    actual = plackett_luce_loss(torch.tensor([a, b, c]), (0, 0, 1))
    assert float(actual) == pytest.approx(2 * log_sum - a - b, rel=1e-5)
    # Ranks (0, 1, 1): one sample, then the responses tied at the last rank add nothing.
    assert float(plackett_luce_loss(torch.tensor([a, b, c]), (0, 1, 1))) == pytest.approx(
        log_sum - a, rel=1e-5
    )
    assert float(plackett_luce_loss(torch.tensor([a, b]), (0, 0))) == 0.0


def test_plackett_luce_gradient_is_finite_and_sums_to_zero() -> None:
    # Adding a number to all scores changes no probability.
    scores = torch.tensor([0.5, -0.7, 1.1, 0.0], requires_grad=True)
    plackett_luce_loss(scores, (2, 0, 3, 1)).backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    assert float(scores.grad.sum()) == pytest.approx(0.0, abs=1e-6)


def test_centering_by_hand() -> None:
    chosen = torch.tensor([1.0, 2.0], requires_grad=True)
    penalty = centering_penalty(chosen, torch.tensor([0.5, -2.0]))
    penalty.sum().backward()
    assert penalty.tolist() == pytest.approx([2.25, 0.0])
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([3.0, 0.0])  # 2·(r_c + r_r)


def test_an_ensembles_score_by_hand() -> None:
    # Members 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3 = 14/3.
    scores = torch.tensor([[1.0, 2.0, 6.0], [2.0, 2.0, 2.0]], requires_grad=True)
    assert worst_score(scores).tolist() == [1.0, 2.0]
    actual = mean_minus_variance(scores, penalty=0.3)
    assert actual.tolist() == pytest.approx([3 - 0.3 * 14 / 3, 2.0])
    assert mean_minus_variance(scores, penalty=0.0).tolist() == pytest.approx([3.0, 2.0])
    # ∂/∂s_i = 1/n − λ·2·(s_i − mean)/n.
    actual.sum().backward()
    assert scores.grad is not None
    expected = [1 / 3 - 0.3 * 2 * (s - 3) / 3 for s in (1.0, 2.0, 6.0)]
    assert scores.grad[0].tolist() == pytest.approx(expected, rel=1e-5)
