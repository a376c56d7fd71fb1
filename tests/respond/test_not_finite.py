"""Sampling from a model whose logits become NaN: an error that says where."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from accord.errors import NotFiniteError
from accord.lm.model import LanguageModel
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from tests.lm.models import causal
from tests.respond.local_sampling import make_lm

BROKEN = 50


class Words:
    eos_token_id = 2

    def decode(self, ids: Any, **options: Any) -> str:
        return " ".join(f"t{i}" for i in ids)


@torch.no_grad()
def chain(name: str) -> LanguageModel:
    """A model that, after any token, says token 50, whose embedding is NaN."""
    model = causal(name)
    embeddings = model.get_input_embeddings()
    head = torch.nn.Linear(embeddings.weight.shape[1], embeddings.weight.shape[0])
    head.weight.zero_()
    head.bias.zero_()
    head.bias[BROKEN] = 100.0
    model.set_output_embeddings(head)
    lm = make_lm(model, sharp=1.0)
    lm.tokenizer = Words()
    embeddings.weight[BROKEN] = torch.nan
    return lm


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("name", ["qwen3", "jamba"])  # with shared prompts, and with padded rows
def test_the_error_names_the_token_and_the_prompt(name: str, temperature: float) -> None:
    lm = chain(name)
    settings = SamplingSettings(num_responses=2, max_new_tokens=5, temperature=temperature)
    message = r"at token 2 of a response to prompt \d of 2, after '.*t50'; \d of 4 responses"
    with pytest.raises(NotFiniteError, match=message):
        LocalSampler(lm)([(5, 6), (7,)], settings, seed=0, streams=[0, 1])
