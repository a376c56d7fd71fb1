"""What a sampling engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How responses are drawn. Temperature 0 takes the likeliest token.

    `top_k` 0, `top_p` 1 and `min_p` 0 cut nothing. A response ends with EOS, or with the token in
    which one of the `stop` strings is completed. `batch_size` responses are written at a time.
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
    def cuts(self) -> bool:
        """Whether the tempered distribution is cut, so that log-probs are not those drawn from."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: its token ids and their log-probs.

    A response that ended (`finished`) has its EOS as last token, or, where a stop string ended it,
    the token in which that string was completed; `stop` is that string, and the response's text is
    what stands before it. The log-probs are those of the tempered distribution before top-k, top-p
    and min-p cut it.

    `exact` tells whose log-probs they are. True: the trainer's own model computed them, so they
    are its passes' but for rounding. False: another engine did (vLLM), with kernels and perhaps
    weights of its own; what learns from such samples computes the log-probs again and weights them
    by exp(own − sampled), truncated.
    """

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    finished: bool
    stop: str | None = None
    exact: bool = True


class Sampler(Protocol):
    """Prompts (token ids) to `num_responses` samples each, in order.

    `streams[i]` numbers prompt i's random stream: the same seed and stream give the same draws,
    whatever else is in the batch, and so the same responses but for rounding.
    """

    def __call__(
        self,
        prompts: Sequence[tuple[int, ...]],
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
    ) -> list[list[Sample]]: ...
