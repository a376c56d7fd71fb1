"""Extra responses that reuse a pass's prompts have the log-probs that each has alone."""

from __future__ import annotations

import pytest
import torch

from accord.lm.adapters.lora import add_adapters
from accord.lm.checks import check_packing
from accord.lm.forward import response_logps, response_stats
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import LoraSettings
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups

FAMILIES = ("llama", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "phi")
# Among them a long row, several responses to a prompt, and one token alone.
GROUPS = random_groups([(9, (4, 3)), (6, (1,)), (120, (5,)), (1, (2, 5, 2))], VOCABULARY)
EXTRA = [g.responses[0] for g in random_groups([(1, (n,)) for n in (7, 1, 3, 110)], VOCABULARY, 5)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_extra_responses_have_the_log_probs_that_they_have_alone(family: str, lora: bool) -> None:
    lm = LanguageModel(causal(family), tokenizer=None, name=family)
    assert check_packing(lm)
    if lora:
        lm = add_adapters(lm, LoraSettings(), seed=0)
    batch = pack(GROUPS)
    stats = response_stats(lm, batch, extra_responses=EXTRA)
    logps, extra = stats.logps, stats.extra_logps
    assert extra is not None
    alone = [PromptGroup(g.prompt, (r,)) for g, r in zip(GROUPS, EXTRA, strict=True)]
    expected = torch.cat([response_logps(lm, pack([group])).detach() for group in alone])
    torch.testing.assert_close(extra, expected, rtol=0, atol=1e-5)
    assert not extra.requires_grad
    # The training pass is unchanged.
    torch.testing.assert_close(logps, response_logps(lm, batch), rtol=0, atol=1e-6)
    parameters = list(lm.trainable_parameters().values())
    gradients = torch.autograd.grad(logps.sin().sum(), parameters)
    plain = torch.autograd.grad(response_logps(lm, batch).sin().sum(), parameters)
    for with_extra, without in zip(gradients, plain, strict=True):
        torch.testing.assert_close(with_extra, without, rtol=1e-4, atol=1e-5)
