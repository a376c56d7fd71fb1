"""vLLM in accord's own process as the sampler of a stage that trains nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig

from accord.lm.checkpoint_weights import checkpoint_weights
from accord.lm.load import base_and_adapter, load_causal, load_tokenizer
from accord.lm.model import end_tokens, positions_of
from accord.settings.stages import SampleSettings

if TYPE_CHECKING:
    from accord.respond.vllm.colocated import ColocatedSampler


def colocated_engine(settings: SampleSettings) -> tuple[Any, ColocatedSampler]:
    """The model's tokenizer, and an engine that has read the model's files. Of an adapter it gets
    the sum with its base. Raises SettingsError where vLLM does not start, or not on the device."""
    from accord.respond.vllm.building import EngineModel, require_vllm
    from accord.respond.vllm.colocated import ColocatedSampler

    require_vllm(settings.device)  # before a model is loaded
    base, adapter = base_and_adapter(settings.model)
    tokenizer = load_tokenizer(settings.model, trust_remote_code=settings.trust_remote_code)
    lm = None
    if adapter is not None:
        lm = load_causal(settings.model, device="cpu", trust_remote_code=settings.trust_remote_code)
    model = EngineModel(
        path=base,
        precision=settings.precision,
        eos_ids=end_tokens(tokenizer, _generation_config(base, settings)),
        max_length=_max_length(base, settings),
        temperature=settings.temperature or 1.0,
        trust_remote_code=settings.trust_remote_code,
    )
    weights = None if lm is None else partial(checkpoint_weights, lm)
    sampler = ColocatedSampler(settings.sampler, model, weights=weights)
    if lm is not None:
        try:
            sampler.publish()
        except BaseException:
            sampler.close()
            raise
        sampler.weights = None  # they are in the engine
    return tokenizer, sampler


def _max_length(path: str, settings: SampleSettings) -> int | None:
    """The tokens of the longest prompt with its response, within the positions of the model in a
    folder or hub name; None where the model alone limits them."""
    if settings.max_prompt_length is None:
        return None
    config = AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
    longest = settings.max_prompt_length + settings.max_new_tokens
    return min(longest, positions_of(config) or longest)


def _generation_config(path: str, settings: SampleSettings) -> GenerationConfig:
    """The generation settings of a model folder or hub name, as loading the model gives them."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        config = AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
        return GenerationConfig.from_model_config(config)
