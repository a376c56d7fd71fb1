"""Whether the processes of a run divide its models: the setting, or the launcher's configuration.

`accelerate launch` gives its configuration as environment variables. What it says of FSDP2 is
followed; what accord can't follow is refused, since a run would not be what was asked for.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from accord.errors import SettingsError
from accord.learn.loop.in_memory import InMemory
from accord.learn.loop.processes import processes
from accord.lm.model import LanguageModel
from accord.lm.released import return_large_blocks, return_memory
from accord.lm.sharding.shards import divide_weights, start_sharded
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

S = TypeVar("S", bound=TrainSettings)
T = TypeVar("T")


def resolve_sharding(
    settings: S,
    memory: InMemory,
    environment: Mapping[str, str] = os.environ,
    *,
    count: int | None = None,
) -> S:
    """The settings with `sharding` as the run has it: where they do not say, as accelerate's
    configuration does. `count` processes are planned; by default they are those of this run.
    Raises SettingsError for what accord can't do."""
    asked = _is_true(environment, "ACCELERATE_USE_FSDP")
    for variable, name in (
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
    ):
        if _is_true(environment, variable):
            raise SettingsError(
                f"accelerate's configuration asks for {name}, which accord does not use. Choose "
                f"FSDP with fsdp_version 2 there (`accelerate config`), or start with `torchrun` "
                f"and sharding=fsdp."
            )
    sharding = settings.sharding or ("fsdp" if asked else "none")
    if asked and sharding == "none":
        log.warning("sharding=none: accelerate's FSDP configuration is not followed.")
    if asked and sharding == "fsdp":
        settings = _follow_accelerate(settings, environment)
    if sharding == "fsdp" and (count or processes().world_size) == 1:
        log.info("There is one process, so the model is not divided.")
        sharding = "none"
    if sharding == "fsdp":
        _refuse_what_cant_be_divided(settings, memory)
    return settings.model_copy(update={"sharding": sharding})


def _follow_accelerate(settings: S, environment: Mapping[str, str]) -> S:
    if environment.get("FSDP_VERSION", "1") != "2":
        raise SettingsError(
            "accelerate's configuration asks for the first version of FSDP, and accord uses the "
            "second. Set fsdp_version: 2 in it (or pass --fsdp_version 2)."
        )
    if _is_true(environment, "FSDP_OFFLOAD_PARAMS"):
        raise SettingsError(
            "accelerate's configuration has fsdp_offload_params: true, and accord keeps the parts "
            "of a model on the device. Set it to false; lora, gradient_checkpointing or more "
            "processes take less memory."
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", settings.precision):
        log.warning(
            "accelerate's mixed_precision is %s, and the run's own setting counts: precision=%s.",
            precision,
            settings.precision,
        )
    if _is_true(environment, "FSDP_ACTIVATION_CHECKPOINTING"):
        log.info("Activations are recomputed, as accelerate's configuration says.")
        settings = settings.model_copy(update={"gradient_checkpointing": True})
    return settings


def _refuse_what_cant_be_divided(settings: TrainSettings, memory: InMemory) -> None:
    if memory.model is not None or memory.ref_model is not None:
        raise SettingsError(
            "sharding=fsdp divides models that it loads from folders, and this call passes one in "
            "memory. Train with the command (`accord train`), which saves the whole model; or use "
            "sharding=none."
        )
    if settings.optim != "adamw":
        raise SettingsError(
            f"optim={settings.optim} holds moments in blocks of 256 numbers, which do not follow "
            f"the parts of a divided model. Use optim=adamw, whose moments are divided."
        )
    if settings.quantization is not None:
        raise SettingsError(
            f"quantization={settings.quantization} packs a base in blocks, which sharding=fsdp "
            f"does not divide. Leave one of the two out."
        )
    if settings.activation_offload:
        raise SettingsError(
            "activation_offload would move the gathered weights of a divided model too. Use "
            "gradient_checkpointing, which recomputes activations, or sharding=none."
        )
    sampler = getattr(settings, "sampler", None)
    if sampler is not None and sampler.is_colocated:
        raise SettingsError(
            "sampler.mode=colocate needs the whole policy in one process, and sharding=fsdp "
            "divides it. Use sampler.mode=server, sampler.kind=local, or sharding=none."
        )


def undivided_router(lm: LanguageModel) -> SettingsError:
    """The error about a mixture of experts that adds its router's loss."""
    return SettingsError(
        f"{lm.name} adds its router's loss, which sharding=fsdp does not compute. Set "
        f"output_router_logits to false in its config.json, or use sharding=none."
    )


def load_divided(
    load: Callable[[], T],
    models_of: Callable[[T], Sequence[LanguageModel]],
    settings: TrainSettings,
) -> T:
    """What `load` returns, with its models divided over the processes where the settings say so.

    The processes of a machine load in turn, so that its memory holds one whole model at a time.
    """
    if settings.sharding != "fsdp":
        return load()
    from torch.distributed.device_mesh import init_device_mesh

    procs = processes()
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    mesh = init_device_mesh("cuda" if on_gpu else "cpu", (procs.world_size,))
    return_large_blocks()
    loaded: list[T] = []

    def load_in_turn(turn: int) -> None:
        if turn == number:
            loaded.append(load())
            divide_weights(models_of(loaded[0]), mesh, reshard=releases_layers())
            return_memory()

    machines = procs.all_gather(platform.node())
    number = machines[: procs.rank].count(machines[procs.rank])
    for turn in range(max(map(machines.count, machines))):
        procs.run_on_all(partial(load_in_turn, turn))
    models = models_of(loaded[0])
    start_sharded(models)
    names = ", ".join(dict.fromkeys(lm.name for lm in models))
    log.info("%d processes divide %s.", procs.world_size, names)
    return loaded[0]


def releases_layers(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a gathered layer is released behind its forward pass, as accelerate's configuration
    says."""
    value = environment.get("FSDP_RESHARD_AFTER_FORWARD", "true")
    return value.lower() not in ("false", "0")


def _is_true(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes", "y", "on")
