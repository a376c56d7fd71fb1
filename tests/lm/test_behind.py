"""Responses behind prompts that a pass has read: as if each were read with its prompt, alone."""

from __future__ import annotations

import pytest
import torch

from accord.lm.adapters.lora import add_adapters
from accord.lm.forward import check_packing, response_logps, response_logps_and_others
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import LoraSettings
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups

FAMILIES = ("llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "phi")
# Among them a long row, several responses to a prompt, and one token alone.
GROUPS = random_groups([(9, (4, 3)), (6, (1,)), (120, (5,)), (1, (2, 5, 2))], VOCABULARY)
OTHERS = [g.responses[0] for g in random_groups([(1, (n,)) for n in (7, 1, 3, 110)], VOCABULARY, 5)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_others_are_read_as_if_with_their_prompts(family: str, lora: bool) -> None:
    lm = LanguageModel(causal(family), tokenizer=None, name=family)
    assert check_packing(lm)
    if lora:
        lm = add_adapters(lm, LoraSettings(), seed=0)
    batch = pack(GROUPS)
    logps, theirs = response_logps_and_others(lm, batch, OTHERS)
    alone = [PromptGroup(g.prompt, (o,)) for g, o in zip(GROUPS, OTHERS, strict=True)]
    expected = torch.cat([response_logps(lm, pack([group])).detach() for group in alone])
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)
    assert not theirs.requires_grad
    # The pass that learns is as it was.
    torch.testing.assert_close(logps, response_logps(lm, batch), rtol=0, atol=1e-6)
    parameters = list(lm.trainable_parameters().values())
    found = torch.autograd.grad(logps.sin().sum(), parameters)
    plain = torch.autograd.grad(response_logps(lm, batch).sin().sum(), parameters)
    for mine, other in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
