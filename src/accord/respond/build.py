"""Builds the sampling engine that settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accord.lm.model import LanguageModel
from accord.respond.local.sampler import LocalSampler
from accord.settings.sampling import SamplerSettings

if TYPE_CHECKING:
    from accord.respond.vllm.sampler import VllmSampler


def make_sampler(settings: SamplerSettings, lm: LanguageModel | None) -> LocalSampler | VllmSampler:
    """The engine that samples `lm`'s responses: the loaded model itself, or a vLLM server that
    serves it, for which `lm` may be None.

    A server samples from its base model until an adapter is published to it: before each iteration
    of online training, save the policy's adapter to a folder and call `publish(folder)`. Raises
    WorkError when the server can't be reached, SettingsError when it does not serve the model.
    """
    if settings.kind == "local":
        if lm is None:
            raise ValueError("the local engine samples from a loaded model")
        return LocalSampler(lm)
    from accord.respond.vllm.sampler import VllmSampler

    return VllmSampler(settings)
