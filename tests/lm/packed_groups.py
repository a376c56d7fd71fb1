"""Groups to pack, models without a tokenizer, and gradients to compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from accord.lm.model import LanguageModel
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups

# K from 1 to 4, a prompt of one token, responses of one token, and rows of up to 21 tokens, which
# are longer than the sliding windows (6) of the models that have one.
SHAPES = [(9, (5, 12, 1, 7)), (1, (4,)), (4, (6, 2)), (12, (3, 3, 8)), (1, (1, 9))]
GROUPS = random_groups(SHAPES, VOCABULARY)


class NoTokenizer:
    eos_token_id = 2


def wrapped(model: Any, **fields: Any) -> LanguageModel:
    return LanguageModel(model, NoTokenizer(), "toy", **fields)


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, gradient in actual.items():
        size = float(expected[name].norm())
        assert float((gradient - expected[name]).norm()) <= 1e-4 * size + 1e-7, name


def weighted(values: Tensor) -> Tensor:
    """A loss with a different derivative to each value."""
    return (values.float() * torch.linspace(-1, 1.5, values.numel())).sum()
