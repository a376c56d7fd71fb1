"""The local engine: samples from a loaded model, each prompt read once for its K responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from accord.lm.model import LanguageModel
from accord.lm.tokens.known_tokens import check_token_ids
from accord.respond.local.padded import generate_padded
from accord.respond.local.responses import Responses
from accord.respond.local.shared_prefix import generate_shared_prefix
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.text import decode_all, find_stop_strings


@dataclass(frozen=True, slots=True)
class LocalSampler:
    """A Sampler (`respond.protocol`) on a loaded model; its samples are `exact`."""

    lm: LanguageModel

    @property
    def max_length(self) -> int | None:
        """The most tokens of a prompt with its response."""
        return self.lm.max_length

    def close(self) -> None:
        """Does nothing: the caller owns the model."""

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[tuple[int, ...]],
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
    ) -> list[list[Sample]]:
        lm = self.lm
        if not prompts:
            return []
        check_token_ids(lm, prompts)
        responses = Responses(
            settings,
            seed=seed,
            streams=streams,
            eos=lm.eos_ids,
            prompts=prompts,
            decode=partial(decode_all, lm.tokenizer),
            stop_strings=find_stop_strings(lm.tokenizer, settings.stop) if settings.stop else None,
        )
        generate = generate_shared_prefix if lm.shares_prefixes else generate_padded
        was_training = lm.model.training
        lm.model.eval()  # in training mode checkpointed layers drop their KV cache
        try:
            with lm.precision_context():  # one context, so that weights are cast to bf16 only once
                generate(lm, prompts, responses)
        finally:
            lm.model.train(was_training)
        return responses.samples()
