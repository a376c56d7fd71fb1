"""The last layer computes only the tokens that are read, with equal numbers and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.lm.adapters.lora import add_adapters
from accord.lm.checks import check_packing
from accord.lm.forward import states_before, states_last
from accord.lm.model import LanguageModel
from accord.lm.packing import pack
from accord.settings.training import LoraSettings
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups

SHAPES = [(9, (4, 3)), (6, (1,)), (7, (2, 5, 2))]
FAMILIES = ("llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "phi")


def language_model(family: str, *, lora: bool = False) -> LanguageModel:
    lm = LanguageModel(causal(family), tokenizer=None, name=family)
    assert check_packing(lm)
    return add_adapters(lm, LoraSettings(), seed=0) if lora else lm


def states_and_gradients(lm: LanguageModel, read: Any) -> tuple[Tensor, list[Tensor | None]]:
    """States, and the gradients of a sum of them that weighs each number differently."""
    lm.model.zero_grad()
    states = read(lm, pack(random_groups(SHAPES, VOCABULARY)))
    torch.sin(states * torch.arange(states.numel()).view(states.shape)).sum().backward()
    return states.detach(), [p.grad for p in lm.model.parameters()]


@pytest.mark.parametrize("read", [states_before, states_last])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
def test_the_numbers_equal_those_of_a_whole_layer(family: str, read: Any, lora: bool) -> None:
    lm = language_model(family, lora=lora)
    assert lm.last_layer is not None
    states, gradients = states_and_gradients(lm, read)
    lm.last_layer = None
    full_states, expected = states_and_gradients(lm, read)
    torch.testing.assert_close(states, full_states, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-6


def tokens_in_mlp(lm: LanguageModel, layer: int, read: Any) -> int:
    widths: list[int] = []
    mlp = lm.backbone.layers[layer].mlp
    linear = mlp.down_proj
    hook = linear.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    read(lm, pack(random_groups(SHAPES, VOCABULARY)))
    hook.remove()
    return widths[0]


def test_only_what_is_read_is_computed() -> None:
    lm = language_model("llama")
    # 39 tokens; of each group the last prompt token and all but the last of each response.
    assert tokens_in_mlp(lm, 0, states_before) == 39
    assert tokens_in_mlp(lm, -1, states_before) == (1 + 3 + 2) + (1 + 0) + (1 + 1 + 4 + 1)
    assert tokens_in_mlp(lm, -1, states_last) == 6
    # A plain transformers pass, and that of a copy, compute all tokens.
    ids = torch.arange(12)[None]
    widths: list[int] = []
    for model in (lm.model, copy.deepcopy(lm.model)):
        linear = model.model.layers[-1].mlp.down_proj
        linear.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
        model(input_ids=ids)
    assert widths == [12, 12]


def test_a_layer_that_is_recomputed_in_the_backward_pass_is_whole() -> None:
    lm = language_model("llama")
    expected = states_and_gradients(lm, states_before)
    lm.enable_gradient_checkpointing()
    assert tokens_in_mlp(lm, -1, states_before) == 39
    states, gradients = states_and_gradients(lm, states_before)
    torch.testing.assert_close(states, expected[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients, expected[1], strict=True):
        assert a is not None
        assert b is not None
        assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-6


def test_a_layer_called_by_keyword_is_computed_whole() -> None:
    class ByKeyword(torch.nn.Module):
        def __init__(self, mlp: torch.nn.Module) -> None:
            super().__init__()
            self.mlp = mlp

        def __call__(self, x: Tensor) -> Any:
            return super().__call__(x=x)

        def forward(self, x: Tensor) -> Any:
            return self.mlp(x)

    expected = states_and_gradients(language_model("llama"), states_before)
    model = causal("llama")
    model.model.layers[-1].mlp = ByKeyword(model.model.layers[-1].mlp)
    lm = LanguageModel(model, tokenizer=None, name="by keyword")
    assert check_packing(lm)
    assert lm.shares_prefixes
    assert lm.last_layer is None
    states, _ = states_and_gradients(lm, states_before)
    torch.testing.assert_close(states, expected[0], rtol=1e-5, atol=1e-5)
