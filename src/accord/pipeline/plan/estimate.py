"""The memory of a training stage on rows: its roles, its passes and its phases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accord.learn.loop.sharding import undivided_router
from accord.learn.offline.methods import METHODS
from accord.learn.online.memory import RoleMemory, moment_bytes
from accord.learn.plan.models import frozen_model, trained_model
from accord.learn.plan.passes import PassMemory, Reads, Shape, trace_pass
from accord.learn.plan.phases import (
    ADAPTER_FRAGMENTS,
    COMPILED_PRODUCTS,
    COPIES,
    DIVIDING,
    FLOAT_FRAGMENTS,
    FRAGMENTS,
    PRODUCT,
    RECOMPUTED_FRAGMENTS,
    TOKENIZER_ENTRY,
    WORKSPACE,
    Allocation,
    Phase,
    StageMemory,
    lasting,
    optimiser_phase,
    saving_phase,
)
from accord.learn.plan.roles import (
    ModelSizes,
    adapter_role,
    frozen_role,
    full_role,
    model_sizes,
    trained_numels,
)
from accord.lm.digest import is_same_path
from accord.lm.model import LanguageModel
from accord.lm.router import asks_router_loss
from accord.pipeline.plan.divided import (
    exchange_between,
    forward_parts,
    grading_phases,
    loading,
    loading_another,
    saved_beside,
    trace_training_pass,
    training_phase,
)
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.models import PlannedModel
from accord.pipeline.plan.rows import RowFacts
from accord.settings.preferences import ReferenceSettings
from accord.settings.training import RewardSettings


def offline_memory(inputs: Inputs, facts: RowFacts) -> StageMemory:
    """The roles and phases of training on rows. Raises ModelError where a pass can't be traced."""
    settings, method = inputs.settings, METHODS[inputs.plan.method or ""]
    heads = 0
    if method.scalar:
        heads = settings.heads if isinstance(settings, RewardSettings) else 1
    lm = trained(inputs, heads=heads)
    whole = model_sizes(lm)
    policy = trained_role(inputs, lm)
    roles = {"model": policy}
    cast = cast_weights(inputs, whole, merged=inputs.merged)
    reference = other_reference(inputs)
    exchange = exchange_between(inputs, lm)
    if exchange is not None and not method.scalar and asks_router_loss(lm):
        raise undivided_router(lm)
    moments = facts.steps is None or facts.steps > 1
    reads: Reads = "ends" if method.scalar else "tokens"
    keeps = keeps_gradients(inputs, several=facts.passes > 1, moments=moments)
    memory = trace_training_pass(lm, facts, exchange, reads=reads, keeps=keeps)
    passes = [memory]
    if facts.mismatched:
        # Without gradient: no more than the way back of the pass whose response it is.
        passes.append(trace_pass(lm, [(1, (n,)) for n in facts.mismatched], grad=False))
    undivided = {"model": trained_role(inputs.undivided, lm)}
    phases = [
        loading(inputs, undivided, files_beside(inputs, whole)),
        training_phase(
            "forward and backward",
            roles,
            policy,
            memory,
            exchange,
            moments=moments,
            keeps=keeps,
            cast=cast,
        ),
        optimiser_phase(roles),
        *grading_phases(inputs, roles, exchange),
        saving_phase(roles, saved_beside(inputs, whole, undivided, exchange)),
    ]
    if isinstance(settings, ReferenceSettings):
        computing = trace_pass(lm, _appended(facts), reads="tokens", grad=False)
        passes.append(computing)
        phases.insert(
            1,
            Phase(
                "reference log-probs",
                {
                    **lasting(roles | reference, moments=False),
                    **forward_parts(computing, exchange),
                    COPIES: cast if inputs.four_bit else 0,
                },
            ),
        )
    if reference and exchange is not None:
        phases.insert(1, loading_another(roles, other_reference(inputs.undivided)))
    beside = allocation(inputs, facts, passes)
    return StageMemory(roles | reference, phases, memory.tokens, beside)


def _appended(facts: RowFacts) -> Sequence[Shape]:
    """The largest pass as the reference reads it: KTO's mismatched responses are the last ones.

    The policy reuses its prompts for them, and saves nothing. Where a step has several passes it
    reads them before those, with their prompts, and needs no more than the reference.
    """
    if not facts.mismatched:
        return facts.largest
    pairs = zip(facts.largest, facts.mismatched, strict=True)
    return [(prompt, (*responses, extra)) for (prompt, responses), extra in pairs]


def trained(inputs: Inputs, *, heads: int = 0, model: PlannedModel | None = None) -> LanguageModel:
    known = model or inputs.model
    lm = trained_model(
        known.config,
        known.name,
        known.tokenizer,
        inputs.settings,
        heads=heads,
    )
    lm.offloads_activations &= inputs.machine.device == "cuda"
    return lm


def trained_role(
    inputs: Inputs, lm: LanguageModel, model: PlannedModel | None = None
) -> RoleMemory:
    """What a (weightless) model that is trained holds, by default the stage's; of a divided one the
    weights that the optimiser steps are all there are."""
    sizes, merged = model_sizes(lm, inputs.parts), inputs.merged
    if model is not None:
        merged = model.is_adapter
    copies = inputs.parts == 1
    if inputs.settings.lora is None:
        role = full_role(sizes, half=inputs.half and copies)
    else:
        role = adapter_role(
            sizes,
            half=inputs.half,
            float32_base=merged,
            four_bit=inputs.four_bit,
            masters=copies,
        )
    return with_moments(role, inputs, trained_numels(lm, inputs.parts))


def with_moments(role: RoleMemory, inputs: Inputs, trained: Sequence[int]) -> RoleMemory:
    """A role whose optimiser has the moments that the settings ask for, of parameters of these
    sizes."""
    return replace(role, moments=sum(moment_bytes(n, inputs.settings.optim) for n in trained))


def allocation(inputs: Inputs, facts: RowFacts, passes: Sequence[PassMemory]) -> Allocation:
    """What the process holds beside its tensors; `passes` are those of a step."""
    if inputs.machine.device != "cpu":
        return Allocation(WORKSPACE)
    entries = int(inputs.model.config.get_text_config().vocab_size)
    workspace = WORKSPACE + TOKENIZER_ENTRY * entries + (DIVIDING if inputs.parts > 1 else 0)
    fragments = FRAGMENTS if inputs.half or inputs.parts > 1 else _float_fragments(inputs.settings)
    if inputs.half:
        workspace += PRODUCT * compiled_products(facts, passes)
    return Allocation(workspace, fragments)


def _float_fragments(settings: Any) -> float:
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return FRAGMENTS
    if settings.lora is not None:
        return ADAPTER_FRAGMENTS
    return RECOMPUTED_FRAGMENTS if settings.gradient_checkpointing else FLOAT_FRAGMENTS


def compiled_products(facts: RowFacts, passes: Sequence[PassMemory]) -> int:
    """How many matrix products a run compiles, each step for other numbers of tokens; no more than
    are retained."""
    given = os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    capacity = int(given) if given.isdecimal() else COMPILED_PRODUCTS
    if facts.steps is None:
        return capacity
    return min(capacity, sum(p.products for p in passes) * facts.passes * facts.steps)


def keeps_gradients(inputs: Inputs, *, several: bool, moments: bool) -> bool:
    """Whether a pass finds the memory of earlier gradients still taken.

    In bf16 the float32 ones keep their buffers, and with several passes a step they are added to.
    Otherwise a step frees them. On a CPU that helps little: glibc's aligned allocation does not
    find a free block of exactly the size that it is asked for, and the next step's gradients have
    exactly these sizes, so they are placed elsewhere.
    """
    if inputs.parts > 1:  # each pass makes this process's part of them, and large blocks go back
        return several
    return inputs.half or several or (moments and inputs.machine.device == "cpu")


def cast_weights(inputs: Inputs, sizes: ModelSizes, *, merged: bool) -> int:
    """Bytes of the copies that a pass makes of weights in the precision that it computes in.

    Of a float32 base, into which an adapter was merged, every layer saves its own bf16 copy for
    the backward pass. Of 4-bit weights there is one layer's at a time.
    """
    if inputs.four_bit:
        return (2 if inputs.half else 4) * max(sizes.layers, default=0)
    return 2 * sizes.base if merged and inputs.half and inputs.settings.lora is not None else 0


def files_beside(inputs: Inputs, sizes: ModelSizes) -> int:
    """Bytes of the weight files that are mapped while other weights are made of them.

    Frozen bf16 weights of 16-bit files are the mapped files themselves, and so are float32 ones
    of float32 files, until they are trained.
    """
    stored = inputs.model.file_bytes or 0
    if inputs.four_bit:
        return stored
    loaded_half = inputs.half and inputs.settings.lora is not None and not inputs.merged
    return 0 if loaded_half == (stored < 3 * sizes.base) else stored


def other_reference(inputs: Inputs) -> dict[str, RoleMemory]:
    """A reference that is neither the starting model nor its base, under a name of its own."""
    settings = inputs.settings
    path = getattr(settings, "ref_model", None)
    if path is None or is_same_path(path, settings.model):
        return {}
    if settings.lora is not None and is_same_path(path, inputs.model.name):
        return {}
    other = inputs.find(path)
    lm = frozen_model(other.config, other.name, other.tokenizer, half=inputs.half)
    role = frozen_role(model_sizes(lm, inputs.parts), half=inputs.half, four_bit=inputs.four_bit)
    return {"reference": role}
