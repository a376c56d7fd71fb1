"""A vLLM engine in accord's own process: what it is built from, and the calls that accord makes.

Everything that depends on vLLM's own interface is here.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from accord.errors import SettingsError
from accord.lm.model import Precision
from accord.settings.sampling import SamplerSettings

MIN_VERSION = "0.32"
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # training uses the same threads
}
"""Variables of vLLM that are set unless the user has set them."""
_INSTALL = (
    "Install it with `pip install 'accord[vllm]'` beside accord, or start a server from any "
    "environment and give its address: sampler.mode=server sampler.url=http://127.0.0.1:8000."
)


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What an engine is built from: the folder or hub name of a full model, and how it is used.

    `max_length` is the limit on a prompt with its response, by default the model's; `temperature`
    the one at which responses are sampled, on which the kind of log-probs depends.
    """

    path: str
    precision: Precision
    eos_ids: frozenset[int]
    max_length: int | None = None
    temperature: float = 1.0
    trust_remote_code: bool = False


class ColocatedEngine(Protocol):
    """The calls of an engine that accord makes. `max_length` is its limit in tokens, `can_sleep`
    whether it frees its memory on request."""

    max_length: int | None
    can_sleep: bool

    def generate(
        self, prompts: Sequence[tuple[int, ...]], parameters: dict[str, Any]
    ) -> list[list[Any]]: ...
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None: ...
    def reset_prefix_cache(self) -> None: ...
    def sleep(self, level: int) -> None: ...
    def wake_up(self, tags: list[str] | None) -> None: ...
    def close(self) -> None: ...


def build_engine(
    settings: SamplerSettings, model: EngineModel, sleep_level: int, gets_weights: bool
) -> ColocatedEngine:
    """An engine with a model; with `gets_weights` it reads none from files.

    Raises SettingsError where vLLM is missing, too old, or does not start.
    """
    require_vllm()
    if torch.distributed.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "sampler.mode=colocate needs a run of a single process: the engine has a group of "
            "processes of its own. Start it without torchrun, or use sampler.mode=server."
        )
    with _undisturbed():
        try:
            return VllmEngine(_start(settings, model, sleep_level, gets_weights))
        except Exception as error:  # whatever is wrong with the machine, the model or vLLM
            _remove_process_group()
            text = " ".join(str(error).split())[:400]
            raise SettingsError(
                f"vLLM did not start in this process with {model.path} ({type(error).__name__}: "
                f"{text}). If memory is what it lacks, set sampler.gpu_memory_utilization (now "
                f"{settings.gpu_memory_utilization:g}) or shorten what it may be asked "
                f"(max_length, max_prompt_length); if it can't serve the model, use "
                f"sampler.kind=local."
            ) from error


def require_vllm(device: str = "auto") -> None:
    """Raise SettingsError where vLLM can't be imported, is older than MIN_VERSION, or is built for
    another device than the CPU that a run is to compute on."""
    from packaging.version import InvalidVersion, Version

    what = "sampler.mode=colocate needs vLLM in accord's own environment"
    if find_spec("vllm") is None:
        raise SettingsError(f"{what}, and it is not installed there. {_INSTALL}")
    # One process: the engine is called, and not sent messages. It is read when vLLM is imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
    except Exception as error:  # its libraries are loaded, whatever is wrong with them
        text = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"{what}, and it can't be imported ({type(error).__name__}: {text}): it is built for "
            f"one version of torch. {_INSTALL}"
        ) from error
    try:
        old = Version(vllm.__version__) < Version(MIN_VERSION)
    except InvalidVersion:  # a build from source
        old = False
    if old:
        raise SettingsError(
            f"{what}, {MIN_VERSION} or later, and {vllm.__version__} is installed. {_INSTALL}"
        )
    if device == "cpu":
        from vllm.platforms import current_platform

        if not current_platform.is_cpu():
            raise SettingsError(
                "device=cpu keeps a run on the CPU, and the vLLM that is installed computes on "
                f"{current_platform.device_name}. Use device=auto, vLLM's CPU build, or "
                "sampler.kind=local."
            )


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def _start(
    settings: SamplerSettings, model: EngineModel, sleep_level: int, gets_weights: bool
) -> Any:
    from vllm import LLM
    from vllm.platforms import current_platform

    return LLM(
        model=model.path,
        trust_remote_code=model.trust_remote_code,
        dtype="bfloat16" if model.precision == "bf16" else "float32",
        max_model_len=model.max_length,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enable_sleep_mode=sleep_level > 0 and current_platform.is_sleep_mode_available(),
        # Until the policy's weights come: load_weights raises where they leave one out.
        load_format="dummy" if gets_weights else "auto",
        generation_config="vllm",  # nothing from the model's folder
        # Raw ones are before the temperature, and before top-k, top-p and min-p too.
        logprobs_mode="raw_logprobs" if model.temperature == 1 else "processed_logprobs",
        enforce_eager=current_platform.is_cpu(),  # where it would need a compiler
        use_tqdm_on_load=False,
    )


class VllmEngine:
    """vLLM's `LLM` as a ColocatedEngine."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.max_length: int | None = llm.llm_engine.model_config.max_model_len
        self.can_sleep: bool = llm.llm_engine.model_config.enable_sleep_mode

    def generate(
        self, prompts: Sequence[tuple[int, ...]], parameters: dict[str, Any]
    ) -> list[list[Any]]:
        """The CompletionOutputs of each prompt, in order."""
        from vllm import SamplingParams

        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self.llm.generate(requests, SamplingParams(**parameters), use_tqdm=False)
        return [sorted(answer.outputs, key=lambda output: output.index) for answer in answers]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy a checkpoint's tensors over the present ones, in place.

        Raises RuntimeError for a parameter that none of them went to. One that is made of several
        of the checkpoint's (q, k and v) counts as loaded from the first.
        """
        self.llm.collective_rpc(_reload, args=(weights,))
        self.llm.collective_rpc(_renew_packed_heads)

    def reset_prefix_cache(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("requests are still under way")

    def sleep(self, level: int) -> None:
        self.llm.sleep(level=level)
        torch.cuda.empty_cache()

    def wake_up(self, tags: list[str] | None) -> None:
        torch.cuda.empty_cache()  # what training has freed
        self.llm.wake_up(tags=tags)

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        try:
            self.llm.llm_engine.engine_core.shutdown()
        finally:
            del self.llm
            cleanup_dist_env_and_memory()
            gc.collect()


def _remove_process_group() -> None:
    """Remove what a failed start left of vLLM's group of processes, so that another can start."""
    with suppress(Exception):  # the start's error is the one to raise
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def _reload(worker: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """vLLM's `reload_weights`, which only warns of parameters that no tensor went to."""
    model = worker.get_model()
    names = {name for name, _ in model.named_parameters()}
    load, reported = model.load_weights, []

    def recorded(given: Iterable[tuple[str, Tensor]]) -> Any:
        reported.append(load(given))
        return reported[-1]

    model.load_weights = recorded
    try:
        worker.reload_weights(weights_iterator=weights)
    finally:
        del model.load_weights  # the class has it
    missing = set() if None in reported else names.difference(*reported)
    if missing and worker.vllm_config.model_config.quantization is None:
        first = ", ".join(sorted(missing)[:5])
        raise RuntimeError(f"{len(missing)} of its weights were not given: {first}")


def _renew_packed_heads(worker: Any) -> None:
    """Pack the vocabulary's head again on a CPU.

    There a layer computes with a copy of its weight that is laid out for the matrix units. When
    weights are loaded again, vLLM 0.32 renews the copies of the layers that a tensor came for; a
    head that is tied to the embeddings gets none, and would compute with the old one.
    """
    for module in worker.get_model().modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(module, "cpu_linear") and type(method).__name__ == "UnquantizedEmbeddingMethod":
            method.process_weights_after_loading(module)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A context after which the process's random numbers and torch's functions are as before, which
    vLLM sets for a process of its own."""
    set_num_threads, state = torch.set_num_threads, random.getstate()
    with generators_restored():
        try:
            yield
        finally:
            random.setstate(state)
            torch.set_num_threads = set_num_threads


@contextmanager
def generators_restored() -> Iterator[None]:
    """A context after which numpy's and torch's generators, of the CPU and of the GPU in use, are
    as before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    state = np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(state)
