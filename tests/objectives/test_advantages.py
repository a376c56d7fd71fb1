"""Rewards, advantages and whitening by hand and by explicit sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from accord.objectives.advantages import (
    gae,
    group_advantages,
    leave_one_out,
    overlong_penalty,
    returns_to_go,
    token_rewards,
    whiten,
)

MASK = torch.tensor([[True, True, True], [True, True, False]])


def gae_by_sum(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Schulman et al. 2016, eq. 16, as an explicit sum: A_t = Σ_l (γλ)^l δ_{t+l}."""
    after = [*values[1:], 0.0]
    delta = [r + gamma * v2 - v for r, v, v2 in zip(rewards, values, after, strict=True)]
    return [
        sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(delta)))
        for t in range(len(delta))
    ]


def test_the_score_is_on_the_last_response_token() -> None:
    # −β·(log-ratio) everywhere; the score on token 2 of the first, token 1 of the second.
    log_ratio = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 99.0]])
    actual = token_rewards(torch.tensor([10.0, -4.0]), log_ratio, MASK, beta=0.1)
    expected = torch.tensor([[-0.1, 0.2, 9.95], [-0.3, -4.1, 0.0]])
    torch.testing.assert_close(actual, expected)


def test_the_overlong_penalty_is_dapos() -> None:
    # The paper's numbers: a limit of 20,480 with the last 4,096 tokens as buffer.
    lengths = torch.tensor([1, 16_384, 17_408, 18_432, 20_480, 30_000])
    found = overlong_penalty(lengths, limit=20_480, buffer=4_096)
    assert found.tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_a_response_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no last token to carry the score"):
        token_rewards(
            torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), beta=0.1
        )


def test_gae_by_hand() -> None:
    # γ = 0.5, λ = 0.5, rewards (0, 0, 1), values (1, 2, 4):
    # δ = (0 + ½·2 − 1, 0 + ½·4 − 2, 1 − 4) = (0, 0, −3);
    # A = (¼·¼·(−3), ¼·(−3), −3) = (−0.1875, −0.75, −3); returns = A + V.
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 2.0, 4.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-0.1875, -0.75, -3.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.8125, 1.25, 1.0]]))


def test_returns_to_go_by_hand() -> None:
    # 1 + 2 + 4, 2 + 4, 4; and 3 − 1, −1: the cell behind the response doesn't count.
    rewards = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 0.0]])
    assert returns_to_go(rewards, MASK).tolist() == [[7.0, 6.0, 4.0], [2.0, -1.0, 0.0]]


def grids() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, generator=g) * MASK, torch.randn(2, 3, generator=g)
    return rewards, values  # the value outside the mask must have no effect


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.6, 0.95, 1.0])
def test_gae_is_the_discounted_sum_of_td_errors(gamma: float, lam: float) -> None:
    rewards, values = grids()
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=lam)
    for row, length in enumerate((3, 2)):
        r, v = rewards[row, :length].tolist(), values[row, :length].tolist()
        expected = gae_by_sum(r, v, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-6)
        expected_returns = [a + b for a, b in zip(expected, v, strict=True)]
        assert returns[row, :length].tolist() == pytest.approx(expected_returns, abs=1e-6)
    assert float(advantages[1, 2]) == float(returns[1, 2]) == 0.0


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_lambda_one_is_the_discounted_return_minus_the_value(gamma: float) -> None:
    rewards, values = grids()
    advantages, returns = gae(rewards, values, MASK, gamma=gamma, lam=1.0)
    for row, length in enumerate((3, 2)):
        for t in range(length):
            to_go = sum(gamma ** (s - t) * float(rewards[row, s]) for s in range(t, length))
            assert float(returns[row, t]) == pytest.approx(to_go, abs=1e-6)
            assert float(advantages[row, t]) == pytest.approx(
                to_go - float(values[row, t]), abs=1e-6
            )


def test_lambda_zero_is_the_td_error() -> None:
    rewards, values = grids()
    advantages, _ = gae(rewards, values, MASK, gamma=0.9, lam=0.0)
    for row, length in enumerate((3, 2)):
        for t in range(length):
            after = float(values[row, t + 1]) if t + 1 < length else 0.0
            td = float(rewards[row, t]) + 0.9 * after - float(values[row, t])
            assert float(advantages[row, t]) == pytest.approx(td, abs=1e-6)


def test_whitening_counts_masked_cells_only() -> None:
    # The five cells 1…5 have mean 3 and population variance 2; the sixth is outside.
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 1000.0]])
    actual = whiten(values, MASK)
    assert float(actual[MASK].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(actual[MASK].var(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
    assert float(actual[0, 0]) == pytest.approx(-2 / 2**0.5, abs=1e-5)
    assert float(actual[1, 2]) == 0.0
    scaled_only = whiten(values, MASK, keep_mean=True)
    assert float(scaled_only[MASK].mean()) == pytest.approx(3.0, abs=1e-5)
    assert float(scaled_only[MASK].var(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
    assert float(scaled_only[1, 2]) == 0.0


def test_whitening_equal_or_missing_cells_is_finite() -> None:
    assert whiten(torch.full((2, 3), 7.0), MASK).abs().max() == 0.0
    no_cells = torch.zeros(2, 3, dtype=torch.bool)
    assert whiten(torch.zeros(2, 3), no_cells).tolist() == [[0.0] * 3] * 2


def test_group_advantages_by_hand() -> None:
    # (1, 2, 6): mean 3, sample variance (4 + 1 + 9)/2 = 7. The second group's scores are equal.
    scores = torch.tensor([[1.0, 2.0, 6.0], [0.1, 0.1, 0.1]])
    plain = group_advantages(scores, scale=False)
    torch.testing.assert_close(plain, torch.tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]))
    scaled = group_advantages(scores, scale=True, eps=0.5)
    torch.testing.assert_close(scaled[0], torch.tensor([-2.0, -1.0, 3.0]) / (7**0.5 + 0.5))
    assert scaled[1].tolist() == [0.0, 0.0, 0.0]  # exactly, whatever the mean is rounded to


def test_leave_one_out_by_hand() -> None:
    # (1, 2, 6) against the means of the others, 4, 3½ and 1½. It is K/(K−1) times the centred one.
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.7, 0.7, 0.7]])
    actual = leave_one_out(rewards)
    torch.testing.assert_close(actual, torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(actual, 1.5 * group_advantages(rewards, scale=False))
