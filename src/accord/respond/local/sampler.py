"""The local engine: samples from a loaded model, each prompt read once for its K responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from accord.lm.model import LanguageModel
from accord.lm.tokens.known_tokens import check_token_ids
from accord.respond.local.padded import write_padded
from accord.respond.local.responses import Responses
from accord.respond.local.shared import write_shared
from accord.respond.protocol import Sample, Sampler, SamplingSettings


@dataclass(frozen=True, slots=True)
class LocalSampler:
    """A Sampler (`respond.protocol`) on a loaded model; its samples are `exact`."""

    lm: LanguageModel

    @property
    def max_length(self) -> int | None:
        """Tokens that a prompt and its response may have together."""
        return self.lm.max_length

    def close(self) -> None:
        """Nothing: the model is its owner's."""

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
            decode=lambda ids: str(lm.tokenizer.decode(ids, skip_special_tokens=True)),
        )
        write = write_shared if lm.shares_prefixes else write_padded
        training = lm.model.training
        lm.model.eval()  # in training mode checkpointed layers drop their key-value memory
        try:
            with lm.precision_context():  # once: weights that are cast to bf16 are cast once
                write(lm, prompts, responses)
        finally:
            lm.model.train(training)
        return responses.samples()


def local_sampler(lm: LanguageModel) -> Sampler:
    """A Sampler on a loaded model."""
    return LocalSampler(lm)
