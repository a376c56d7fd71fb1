"""The load-balancing loss by hand."""

from __future__ import annotations

import pytest
import torch

from accord.objectives.router import load_balancing_loss


def test_an_even_load_gives_the_number_of_choices() -> None:
    # Uniform probabilities of 4 experts: P_e = 1/4, Σ f_e = top_k, so 4 · top_k · 1/4 = top_k.
    logits = [torch.zeros(6, 4), torch.zeros(6, 4)]
    for top_k in (1, 2):
        loss = load_balancing_loss(logits, torch.ones(6), top_k=top_k)
        assert float(loss) == pytest.approx(top_k)


def test_an_uneven_load_by_hand() -> None:
    # Two tokens of two experts, one choice each, probabilities (0.8, 0.2) and (0.4, 0.6):
    # f = (1/2, 1/2), P = (0.6, 0.4), so 2 · (0.3 + 0.2) = 1. With weights 3 and 1:
    # f = (3/4, 1/4), P = (0.7, 0.3), so 2 · (0.525 + 0.075) = 1.2. Without the second: 2 · 0.8.
    logits = [torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()]
    for weights, expected in (((1, 1), 1.0), ((3, 1), 1.2), ((1, 0), 1.6)):
        loss = load_balancing_loss(logits, torch.tensor(weights).float(), top_k=1)
        assert float(loss) == pytest.approx(expected)


def test_layers_are_averaged_before_the_product() -> None:
    # Layers that send the one token to opposite experts: f = (1/2, 1/2) over both, so 1.
    layers = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.1, 0.9]]).log()]
    assert float(load_balancing_loss(layers, torch.ones(1), top_k=1)) == pytest.approx(1.0)
