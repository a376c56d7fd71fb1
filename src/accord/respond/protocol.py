"""What a sampling engine takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How responses are drawn. Temperature 0 takes the likeliest token."""

    num_responses: int = 1
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 512


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: its token ids (EOS included when it ended) and their log-probs.

    The log-probs are those of the tempered distribution before top-p cuts it.
    """

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    finished: bool


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
