"""What samples in online learning: the policy itself, a vLLM server, or vLLM in this process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accord.errors import SettingsError
from accord.learn.loop.processes import processes
from accord.lm.checkpoint_weights import checkpoint_weights
from accord.lm.load import base_and_adapter, save_model
from accord.lm.model import LanguageModel
from accord.lm.sharding.saving import whole_weights
from accord.respond.build import make_sampler
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sampler
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SamplingEngine:
    """A sampler, and the fields of `Roles` that belong to it."""

    sampler: Sampler
    sync_weights: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    server: bool = False


def open_engine(
    settings: OnlineSettings, policy: LanguageModel, *, on_disk: bool = True
) -> SamplingEngine:
    """The engine that samples the policy's responses. `on_disk` says whether the settings' `model`
    names a folder or hub name with the policy's architecture."""
    if settings.sampler.is_colocated:
        return _colocated(settings, policy, on_disk=on_disk)
    sampler = make_sampler(settings.sampler, policy)
    if isinstance(sampler, LocalSampler):
        return SamplingEngine(sampler)
    if policy.unsaved:
        raise merged_base_error(settings.model, "lora.continue_adapter")
    if settings.lora is None:
        sampler.published.require_taking_weights()
        _say_what_a_cpu_server_leaves(policy)
    else:
        sampler.warn_unless_serving(policy.name)
    warn_about_4_bits(policy)
    published = Path(settings.output_dir) / "published"

    def sync_weights() -> None:
        is_main = processes().is_main
        whole = None
        if policy.sharded is not None:
            whole = whole_weights(policy, "auto", is_main=is_main)
        if is_main:
            save_model(policy, published, card="", whole=whole)
            sampler.publish(published)

    def close() -> None:
        sampler.close()
        shutil.rmtree(published, ignore_errors=True)

    return SamplingEngine(sampler, sync_weights, close, server=True)


def _colocated(settings: OnlineSettings, policy: LanguageModel, *, on_disk: bool) -> SamplingEngine:
    """vLLM in this process, which gets whole weights: an adapter's are added to its base's. So it
    needs no folder, no limit on the rank, and no kernels of its own for adapters."""
    from accord.respond.vllm.building import EngineModel
    from accord.respond.vllm.colocated import ColocatedSampler

    if not on_disk:
        raise SettingsError(
            "vLLM in this process reads the configuration and tokenizer of a model's folder, and "
            "the policy was passed in memory. Train from a folder or hub name, or use "
            "sampler.kind=local."
        )
    model = EngineModel(
        path=base_and_adapter(settings.model)[0],
        precision=policy.precision,
        eos_ids=policy.eos_ids,
        max_length=min(settings.max_length, policy.max_positions or settings.max_length),
        temperature=settings.temperature,
        trust_remote_code=settings.trust_remote_code,
    )
    weights = partial(checkpoint_weights, policy)
    sampler = ColocatedSampler(settings.sampler, model, weights=weights, sleeps=True)
    return SamplingEngine(sampler, sampler.publish, sampler.close)


def _say_what_a_cpu_server_leaves(policy: LanguageModel) -> None:
    """Warn of a gap of vLLM 0.32: on a CPU a tied head has a packed copy of its own, which a server
    does not renew when it gets whole weights."""
    if policy.device.type == "cpu" and policy.inner.config.get_text_config().tie_word_embeddings:
        log.warning(
            "The vocabulary's head of %s is tied to its embeddings. If the vLLM server runs on a "
            "CPU too, its head remains that of the start; sampler/mismatch_kl says how far that "
            "is. sampler.mode=colocate renews it, and so does a server on a GPU.",
            policy.name,
        )


def warn_about_4_bits(policy: LanguageModel) -> None:
    """Warn that a server samples from another base than the 4-bit one that is trained on."""
    if policy.is_quantised:
        log.warning(
            "The vLLM server samples from %s as it was started, and this run computes with its "
            "weights in 4 bits. Samples are weighted by the ratio of their probabilities; "
            "sampler/mismatch_kl says how far the two are apart.",
            policy.name,
        )


def merged_base_error(adapter: str, setting: str) -> SettingsError:
    """The error of an adapter as the start where a vLLM server samples, unless it is continued;
    `setting` names the setting that continues it."""
    return SettingsError(
        f"{adapter} is an adapter: it is merged into its base before new adapters are added, and "
        f"the vLLM server's base is another. Set {setting}=true to train it further on its base, "
        f"which the server must serve; or merge it into a model folder, serve that, and name it in "
        f"`model`; or use sampler.kind=local."
    )
