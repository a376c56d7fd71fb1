"""The phases of a stage whose models the processes of the run divide, beside those of one process
that has them whole."""

from __future__ import annotations

from collections.abc import Mapping

from accord.learn.loop.sharding import releases_layers
from accord.learn.online.memory import RoleMemory
from accord.learn.plan.exchange import ShardExchange, exchange_of
from accord.learn.plan.passes import PassMemory, Reads, trace_pass
from accord.learn.plan.phases import (
    ACTIVATIONS,
    GATHERED,
    WEIGHTS,
    Phase,
    divided_phase,
    lasting,
    loading_phase,
    loading_whole_phase,
    pass_phase,
)
from accord.learn.plan.roles import ModelSizes
from accord.lm.model import LanguageModel
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.rows import RowFacts


def exchange_between(
    inputs: Inputs, lm: LanguageModel, *, merged: bool | None = None
) -> ShardExchange | None:
    """What a process gathers of a model; None where each has it whole.

    Weights are gathered in bf16 where a pass computes in it, but for a frozen base into which an
    adapter was `merged`, by default as the stage's model says: it is float32.
    """
    if inputs.parts == 1:
        return None
    float32 = inputs.merged if merged is None else merged
    trains_all = all(p.requires_grad for p in lm.model.parameters())
    return exchange_of(
        lm,
        element_size=2 if inputs.half and (trains_all or not float32) else 4,
        staging=inputs.machine.device == "cpu",
        releases_layers=releases_layers(),
    )


def trace_training_pass(
    lm: LanguageModel,
    facts: RowFacts,
    exchange: ShardExchange | None,
    *,
    reads: Reads = "tokens",
    keeps: bool,
) -> PassMemory:
    """The largest pass forward and backward. Gradients of a divided model are not in it: they leave
    with each layer (`ShardExchange.backward`)."""
    counted = keeps or exchange is not None
    return trace_pass(lm, facts.largest, reads=reads, keeps_gradients=counted)


def training_phase(
    name: str,
    roles: Mapping[str, RoleMemory],
    role: RoleMemory,
    memory: PassMemory,
    exchange: ShardExchange | None,
    *,
    moments: bool,
    keeps: bool,
    others: int = 0,
    cast: int = 0,
) -> Phase:
    """A pass forward and backward of one of the roles, beside gradients of `others`."""
    earlier = role.gradients if keeps else 0
    if exchange is None:
        return pass_phase(
            name, roles, memory, moments=moments, gradients=others + earlier, cast=cast
        )
    parts = exchange.backward(memory, earlier=earlier, left=role.gradients)
    return divided_phase(name, roles, parts, moments=moments, gradients=others, cast=cast)


def forward_parts(memory: PassMemory, exchange: ShardExchange | None) -> dict[str, int]:
    """What a pass without gradient needs."""
    return {ACTIVATIONS: memory.forward} if exchange is None else exchange.forward(memory.forward)


def loading(inputs: Inputs, undivided: Mapping[str, RoleMemory], files: int) -> Phase:
    """Loading the models, which a process that divides them has whole at first."""
    if inputs.parts == 1:
        return loading_phase(undivided, files)
    return loading_whole_phase(undivided, files)


def loading_another(roles: Mapping[str, RoleMemory], undivided: Mapping[str, RoleMemory]) -> Phase:
    """Loading a reference beside a model that is divided already."""
    weights = lasting(roles, moments=False)
    weights[WEIGHTS] += sum(role.weights for role in undivided.values())
    return Phase("loading the reference, before its division", weights)


def saved_beside(
    inputs: Inputs,
    whole: ModelSizes,
    undivided: Mapping[str, RoleMemory],
    exchange: ShardExchange | None,
) -> int:
    """Bytes that saving takes beside what the roles hold.

    The main process gathers divided models in its CPU memory, a parameter at a time: what is
    trained, and a base that no folder holds.
    """
    half_saved = _saved_in_half(inputs, whole)
    if exchange is None:
        return 2 * whole.base_and_head if inputs.settings.lora is None and half_saved else 0
    gathered = exchange.buffers * exchange.parameter
    if inputs.machine.device != "cpu":
        return gathered
    trained = sum(role.gradients for role in undivided.values()) // 4
    if inputs.settings.lora is None:
        return gathered + (2 if half_saved else 4) * trained
    return gathered + 4 * (trained + (whole.base if inputs.merged else 0))


def _saved_in_half(inputs: Inputs, whole: ModelSizes) -> bool:
    """Whether a full model is saved in 16 bits: as its files are, unless the settings say."""
    if inputs.settings.save_dtype != "auto":
        return bool(inputs.settings.save_dtype != "fp32")
    stored = inputs.model.file_bytes
    return stored is None or stored <= 3 * whole.base


def grading_phases(
    inputs: Inputs, roles: Mapping[str, RoleMemory], exchange: ShardExchange | None
) -> list[Phase]:
    """The answers to `safety_dataset`, for which the whole weights are gathered. Where nothing is
    divided they need no more than a pass."""
    if exchange is None or inputs.settings.safety_dataset is None:
        return []
    parts = lasting(roles, moments=True) | sampling_parts(exchange)
    return [Phase("answers to safety_dataset", parts)]


def sampling_parts(exchange: ShardExchange | None) -> dict[str, int]:
    """Whole weights, in the process that samples or scores with them."""
    return {} if exchange is None else {GATHERED: exchange.sampling}
