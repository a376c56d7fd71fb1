"""Responses while they are generated: their tokens, which of them are finished, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from accord.errors import NotFiniteError
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.stops import StopStrings


class Responses:
    """All responses of a call, numbered prompt by prompt: response k to prompt i is i·K + k."""

    def __init__(
        self,
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
        eos: frozenset[int],
        prompts: Sequence[Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        stop_strings: StopStrings | None = None,
    ) -> None:
        count, max_length = len(streams) * settings.num_responses, settings.max_new_tokens
        self.settings = settings
        self.lengths = torch.zeros(count, dtype=torch.long)
        self.uniforms = _draw_uniforms(seed, streams, settings)
        self._tokens = torch.zeros(count, max_length, dtype=torch.long)
        self._logps = torch.zeros(count, max_length)
        self._ended = torch.zeros(count, dtype=torch.bool)
        self._eos = torch.tensor(sorted(eos), dtype=torch.long)
        self._prompts, self._decode, self._stop_strings = prompts, decode, stop_strings
        self._stopped_by: dict[int, str] = {}

    def next_uniforms(self, responses: Tensor) -> Tensor:
        """The uniform numbers (n,) that draw the next token of responses (n,)."""
        return self.uniforms[responses, self.lengths[responses]]

    def append_tokens(self, responses: Tensor, tokens: Tensor, logps: Tensor) -> Tensor:
        """Append a token to each of responses (n,); returns which of them are now finished (n,).

        Raises NotFiniteError where a log-prob is not finite: the logits were not.
        """
        self._check_finite(responses, logps)
        positions = self.lengths[responses]
        self._tokens[responses, positions], self._logps[responses, positions] = tokens, logps
        self.lengths[responses] = positions + 1
        ended = torch.isin(tokens, self._eos)
        if self._stop_strings is not None:
            for i in (~ended).nonzero().flatten().tolist():
                response = int(responses[i])
                written = self._tokens[response, : int(positions[i]) + 1].tolist()
                prompt = response // self.settings.num_responses
                stop = self._stop_strings.find_in(written, self._prompts[prompt])
                if stop is not None:
                    ended[i], self._stopped_by[response] = True, stop
        self._ended[responses] = ended
        return ended | (positions + 1 == self.settings.max_new_tokens)

    def last_tokens(self, responses: Tensor) -> Tensor:
        return self._tokens[responses, self.lengths[responses] - 1]

    def samples(self) -> list[list[Sample]]:
        """The K samples of each prompt."""
        flat = [self._sample(i) for i in range(len(self.lengths))]
        k = self.settings.num_responses
        return [flat[i : i + k] for i in range(0, len(flat), k)]

    def _check_finite(self, responses: Tensor, logps: Tensor) -> None:
        bad = responses[~torch.isfinite(logps)]
        if not len(bad):
            return
        response = int(bad[0])
        count, prompt = int(self.lengths[response]), response // self.settings.num_responses
        text = self._decode(self._prompts[prompt])
        text += self._decode(self._tokens[response, :count].tolist())
        raise NotFiniteError(
            f"The logits are not finite (NaN or infinite) at token {count + 1} of a response to "
            f"prompt {prompt + 1} of {len(self.lengths) // self.settings.num_responses}, after "
            f"{text[-80:]!r}; {len(bad)} of {len(responses)} "
            f"responses have such logits there. In training, lower learning_rate; otherwise look "
            f"at the model's weights, or use precision=fp32."
        )

    def _sample(self, response: int) -> Sample:
        n = int(self.lengths[response])
        return Sample(
            tuple(self._tokens[response, :n].tolist()),
            tuple(self._logps[response, :n].tolist()),
            bool(self._ended[response]),
            self._stopped_by.get(response),
        )


def _draw_uniforms(seed: int, streams: Sequence[int], settings: SamplingSettings) -> Tensor:
    """Uniform numbers (prompts · K, max_new_tokens); each prompt's stream is a Philox generator
    keyed by seed and stream number."""
    shape = (settings.num_responses, settings.max_new_tokens)
    draws = [np.random.Generator(np.random.Philox(key=[seed, s])).random(shape) for s in streams]
    return torch.from_numpy(np.concatenate(draws))
