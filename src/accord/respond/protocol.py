"""The interface of a sampling engine: settings, prompts and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How responses are sampled. Temperature 0 takes the likeliest token.

    `top_k` 0, `top_p` 1 and `min_p` 0 truncate nothing. A response ends with EOS, or with the token
    that completes one of the `stop` strings. `batch_size` responses are generated at a time.
    """

    num_responses: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 512
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    @property
    def is_truncated(self) -> bool:
        """Whether top-k, top-p or min-p truncate the tempered distribution, so that tokens are not
        drawn from the distribution of the log-probs."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: its token ids and their log-probs.

    A response that ended (`finished`) has its EOS as last token, or, where a stop string ended it,
    the token that completed that string; `stop` is that string, and the response's text ends before
    it. The log-probs are those of the tempered distribution before top-k, top-p and min-p truncate
    it.

    `exact` says which engine computed the log-probs. True: the trainer's model, so they equal its
    forward pass but for rounding. False: another engine (vLLM), with different kernels and perhaps
    different weights; what learns from such samples computes the log-probs again and weights each
    token by exp(recomputed − sampled), truncated.
    """

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    finished: bool
    stop: str | None = None
    exact: bool = True


class Sampler(Protocol):
    """Takes prompts (token ids); returns `num_responses` samples for each, in order.

    `streams[i]` is the number of prompt i's random stream: the same seed and stream give the same
    draws, whatever else is in the batch, and so the same responses but for rounding.
    """

    def __call__(
        self,
        prompts: Sequence[tuple[int, ...]],
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
    ) -> list[list[Sample]]: ...
