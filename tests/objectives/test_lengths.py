"""Which tokens LD-DPO gives a lower weight."""

from __future__ import annotations

import pytest
import torch

from accord.objectives.lengths import length_desensitised_weights


def test_tokens_beyond_the_shorter_length_have_the_lower_weight() -> None:
    # Responses of 3, 1 and 2 tokens, paired with responses of 2, 4 and 2 tokens.
    weights = length_desensitised_weights(
        torch.tensor([3, 1, 2]), torch.tensor([2, 4, 2]), alpha=0.25
    )
    assert weights.tolist() == [1.0, 1.0, 0.25, 1.0, 1.0, 1.0]


def test_weighted_log_probs_of_a_pair() -> None:
    # Log-probs −1, −2, −3 against −4: shared is one token: −1 + ½·(−2 − 3) = −3.5, and −4.
    lengths = torch.tensor([3, 1])
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    weighted = logps * length_desensitised_weights(lengths, lengths.flip(0), alpha=0.5)
    assert (float(weighted[:3].sum()), float(weighted[3:].sum())) == (-3.5, -4.0)


def test_alpha_of_one_and_of_zero() -> None:
    lengths, others = torch.tensor([4, 2]), torch.tensor([2, 4])
    assert length_desensitised_weights(lengths, others, alpha=1.0).tolist() == [1.0] * 6
    assert length_desensitised_weights(lengths, others, alpha=0.0).tolist() == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and at most 1"):
        length_desensitised_weights(torch.tensor([1]), torch.tensor([1]), alpha=alpha)
