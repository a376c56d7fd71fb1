"""Responses while they are written: what was drawn, who is over, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.stops import Stop


class Responses:
    """All responses of a call, numbered prompt by prompt: the k-th to prompt i is i·K + k."""

    def __init__(
        self,
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
        eos: frozenset[int],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        count, longest = len(streams) * settings.num_responses, settings.max_new_tokens
        self.settings = settings
        self.lengths = torch.zeros(count, dtype=torch.long)
        self.uniforms = _uniforms(seed, streams, settings)
        self._tokens = torch.zeros(count, longest, dtype=torch.long)
        self._logps = torch.zeros(count, longest)
        self._ended = torch.zeros(count, dtype=torch.bool)
        self._eos = torch.tensor(sorted(eos), dtype=torch.long)
        self._stop = Stop(settings.stop, decode) if settings.stop else None
        self._stopped_by: dict[int, str] = {}

    def uniform(self, who: Tensor) -> Tensor:
        """The draw (n,) that decides the next token of each of these responses (n,)."""
        return self.uniforms[who, self.lengths[who]]

    def take(self, who: Tensor, token: Tensor, logp: Tensor) -> Tensor:
        """Add a token to each of these responses (n,); says which of them are over now (n,)."""
        place = self.lengths[who]
        self._tokens[who, place], self._logps[who, place] = token, logp
        self.lengths[who] = place + 1
        ended = torch.isin(token, self._eos)
        if self._stop is not None:
            for i in (~ended).nonzero().flatten().tolist():
                number = int(who[i])
                found = self._stop.ended_by(self._tokens[number, : int(place[i]) + 1].tolist())
                if found is not None:
                    ended[i], self._stopped_by[number] = True, found
        self._ended[who] = ended
        return ended | (place + 1 == self.settings.max_new_tokens)

    def last_token(self, who: Tensor) -> Tensor:
        return self._tokens[who, self.lengths[who] - 1]

    def samples(self) -> list[list[Sample]]:
        """By prompt."""
        own = [self._sample(i) for i in range(len(self.lengths))]
        k = self.settings.num_responses
        return [own[i : i + k] for i in range(0, len(own), k)]

    def _sample(self, i: int) -> Sample:
        n = int(self.lengths[i])
        return Sample(
            tuple(self._tokens[i, :n].tolist()),
            tuple(self._logps[i, :n].tolist()),
            bool(self._ended[i]),
            self._stopped_by.get(i),
        )


def _uniforms(seed: int, streams: Sequence[int], settings: SamplingSettings) -> Tensor:
    """Uniform draws (prompts · K, max_new_tokens), each prompt's from a generator of its own."""
    shape = (settings.num_responses, settings.max_new_tokens)
    draws = [np.random.Generator(np.random.Philox(key=[seed, s])).random(shape) for s in streams]
    return torch.from_numpy(np.concatenate(draws))
