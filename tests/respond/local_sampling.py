"""Toy models for the local sampler, prompts of very different lengths, and samples of them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from accord.lm.checks import check_packing
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sample, SamplingSettings

EOS = 2
# Very different lengths, one beyond the sliding windows (6), so that there is much padding.
PROMPTS = [
    (5, 9, 11, 4, 60, 61, 33, 7, 8, 90, 12),
    (3,),
    (7, 8, 9),
    (44, 41, 17, 23, 5, 6),
]


class EosOnly:
    """A tokenizer that has an EOS token and nothing else."""

    pad_token = chat_template = unk_token_id = None
    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __len__(self) -> int:
        return 0

    def convert_tokens_to_ids(self, token: str) -> None:
        return None

    def __init__(self, eos: int | None = EOS) -> None:
        self.eos_token_id = eos


def make_lm(model: Any, *, eos: int | None = EOS, sharp: float = 6.0) -> LanguageModel:
    """A model with matrices scaled up, so that the distributions are far from uniform."""
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(sharp)
    lm = LanguageModel(model, EosOnly(eos), "toy")
    check_packing(lm)
    return lm


def sample(
    lm: LanguageModel,
    prompts: list[tuple[int, ...]] | None = None,
    *,
    seed: int = 0,
    streams: list[int] | None = None,
    **settings: Any,
) -> list[list[Sample]]:
    prompts = PROMPTS if prompts is None else prompts
    streams = list(range(len(prompts))) if streams is None else streams
    sampling = SamplingSettings(**{"num_responses": 3, "max_new_tokens": 8, **settings})
    return LocalSampler(lm)(prompts, sampling, seed=seed, streams=streams)


def token_ids(sampled: list[list[Sample]]) -> list[list[tuple[int, ...]]]:
    return [[s.tokens for s in samples] for samples in sampled]


def assert_log_probs_are_the_models(
    lm: LanguageModel, sampled: list[list[Sample]], temperature: float = 1.0
) -> None:
    for prompt, samples in zip(PROMPTS, sampled, strict=True):
        batch = pack([PromptGroup(prompt, tuple(s.tokens for s in samples))])
        with torch.no_grad():
            expected = response_logps(lm, batch, temperature=temperature).tolist()
        assert [x for s in samples for x in s.logps] == pytest.approx(expected, abs=1e-4)
