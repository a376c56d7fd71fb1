"""How vLLM samples, in a server and in this process alike."""

from __future__ import annotations

from typing import Any

from accord.respond.protocol import SamplingSettings


def sampling_parameters(settings: SamplingSettings) -> dict[str, Any]:
    """vLLM's sampling parameters, with nothing left to a default of the server or of the model's
    folder; how many responses, their end tokens and a seed are the caller's."""
    return {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,  # 0: no limit
        "min_p": settings.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": list(settings.stop),
        "skip_special_tokens": False,  # so that a stop string may name one, as locally
        "spaces_between_special_tokens": False,
        "logprobs": 0,  # those of the sampled tokens alone
    }
