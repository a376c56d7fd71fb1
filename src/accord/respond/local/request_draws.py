"""The draws of responses that each have their own sampling settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from accord.respond.local.draw import draw_tokens, likeliest_tokens
from accord.respond.protocol import SamplingSettings

BLOCK = 64  # uniform numbers drawn at a time
_DRAWS_PER_COUNT = 4  # numbers that Philox gives at each count


class UniformStream:
    """The uniform numbers of response `index` to a prompt, as `LocalSampler` draws them with the
    same seed, stream 0 and limit of tokens: they do not depend on the number of responses."""

    def __init__(self, seed: int, index: int, max_new_tokens: int) -> None:
        first = index * max_new_tokens
        philox = np.random.Philox(key=np.array([seed, 0], np.uint64))
        philox.advance(first // _DRAWS_PER_COUNT)
        self._generator = np.random.Generator(philox)
        self._generator.random(first % _DRAWS_PER_COUNT)
        self._block: list[float] = []

    def __next__(self) -> float:
        if not self._block:
            self._block = self._generator.random(BLOCK)[::-1].tolist()
        return self._block.pop()


def draw_rows(
    logits: Tensor, uniform: Sequence[float], settings: Sequence[SamplingSettings]
) -> tuple[Tensor, Tensor]:
    """Token ids (rows,) of logits (rows, V), and whether each row's logits are finite: each row by
    its own settings, those with equal ones together. Both are on the CPU."""
    groups: dict[SamplingSettings, list[int]] = defaultdict(list)
    for row, own_settings in enumerate(settings):
        groups[_of_draw(own_settings)].append(row)
    numbers = torch.tensor(uniform, dtype=torch.float64)
    tokens = torch.zeros(len(logits), dtype=torch.long)
    is_finite = torch.zeros(len(logits), dtype=torch.bool)
    for group, rows in groups.items():
        index = torch.tensor(rows)
        part = logits if len(groups) == 1 else logits[index.to(logits.device)]
        if group.temperature == 0:  # without log-probs, which would read all logits several times
            token, value = likeliest_tokens(part)
        else:
            token, value = draw_tokens(part, numbers[index].to(logits.device), group)
        tokens[index], is_finite[index] = token.cpu(), torch.isfinite(value).cpu()
    return tokens, is_finite


def _of_draw(settings: SamplingSettings) -> SamplingSettings:
    """The settings with what does not change a draw at its default."""
    default = SamplingSettings()
    return replace(
        settings,
        num_responses=default.num_responses,
        max_new_tokens=default.max_new_tokens,
        batch_size=default.batch_size,
        stop=default.stop,
    )
