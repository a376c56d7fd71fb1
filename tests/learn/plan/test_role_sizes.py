"""The planned bytes of roles are those of roles that are loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from accord.learn.online.memory import memory_plan, moment_bytes
from accord.learn.online.roles import load_roles
from accord.learn.plan.models import frozen_model, trained_model
from accord.learn.plan.roles import (
    ModelSizes,
    adapter_role,
    frozen_role,
    full_role,
    head_role,
    model_sizes,
)
from accord.lm.weightless import new_config
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import find_model
from accord.pipeline.plan.online import online_roles
from accord.settings.memory import Optim
from accord.settings.recipe import StagePlan
from accord.settings.training import SftSettings
from tests.learn.online.saved_roles import CRITICS, RoleToys, ppo_settings

WIDTH, INNER, WORDS, LAYERS, HEADS, KEYS, HEAD = 32, 48, 300, 2, 4, 2, 8
LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "vocab_size": WORDS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "head_dim": HEAD,
    "tie_word_embeddings": True,
}
# A layer: queries and output, keys and values, three matrices of the MLP, two norms.
LAYER = 2 * WIDTH * HEADS * HEAD + 2 * WIDTH * KEYS * HEAD + 3 * WIDTH * INNER + 2 * WIDTH
BASE = WORDS * WIDTH + LAYERS * LAYER + WIDTH
# Of rank r an adapter has r·(in + out) numbers on each of the seven matrices.
ENDS = 2 * (WIDTH + HEADS * HEAD) + 2 * (WIDTH + KEYS * HEAD) + 3 * (WIDTH + INNER)


def sizes(*, heads: int = 0, **values: Any) -> ModelSizes:
    settings = SftSettings(model="m", dataset="d", output_dir="o", **values)
    return model_sizes(trained_model(new_config("llama", LLAMA), "m", None, settings, heads=heads))


def test_sizes_are_those_counted_by_hand() -> None:
    assert replace(sizes(), layers=()) == ModelSizes(BASE)
    assert replace(sizes(lora={"r": 3}), layers=()) == ModelSizes(BASE, 3 * LAYERS * ENDS)
    assert replace(sizes(heads=2), layers=()) == ModelSizes(BASE, 0, 2 * WIDTH)


def test_bytes_of_a_full_model() -> None:
    # float32: weights, gradients and two moments of 4 bytes each.
    full = full_role(sizes(), half=False)
    assert (full.weights, full.masters) == (4 * BASE, 0)
    assert (full.gradients, full.moments) == (4 * BASE, 8 * BASE)
    # bf16: copies of 2 bytes to compute with, beside float32 masters, gradients and moments.
    half = full_role(sizes(), half=True)
    assert (half.weights, half.masters) == (2 * BASE, 4 * BASE)
    assert half.total == (2 + 4 + 4 + 8) * BASE


def test_bytes_of_adapters_and_heads() -> None:
    adapter = 3 * LAYERS * ENDS
    lora = adapter_role(sizes(lora={"r": 3}), half=True)
    assert lora.weights == 2 * BASE + 2 * adapter
    assert (lora.masters, lora.gradients, lora.moments) == (4 * adapter, 4 * adapter, 8 * adapter)
    on_base = adapter_role(ModelSizes(0, adapter, WIDTH + 1), half=False, base=False)
    assert on_base.weights == 4 * (adapter + WIDTH + 1)
    assert frozen_role(sizes(heads=1), half=True).weights == 2 * BASE + 4 * WIDTH
    assert head_role(WIDTH).total == (4 + 4 + 8) * (WIDTH + 1)


@pytest.fixture(scope="module")
def role_toys(tmp_path_factory: pytest.TempPathFactory) -> RoleToys:
    return RoleToys(tmp_path_factory.mktemp("roles"))


@pytest.mark.parametrize(
    ("precision", "optim"), [("fp32", "adamw"), ("bf16", "adamw"), ("bf16", "adamw_8bit")]
)
@pytest.mark.parametrize(("critic", "lora"), CRITICS)
def test_planned_roles_are_those_that_are_loaded(
    critic: str | None,
    lora: dict[str, int] | None,
    precision: str,
    optim: Optim,
    role_toys: RoleToys,
) -> None:
    reward = role_toys.adapter_reward if lora else role_toys.whole_reward
    settings = ppo_settings(
        role_toys,
        critic=critic,
        lora=lora,
        precision=precision,
        reward_model=reward,
        optim=optim,
    )
    loaded = load_roles(settings)
    (scorer,) = loaded.reward.models
    expected = memory_plan(
        {
            "policy": loaded.policy,
            "reference": loaded.reference,
            "reward model": scorer,
            "critic": loaded.critic,
        },
        optim,
    )
    plan = StagePlan("ppo", "train", settings, "ppo")
    inputs = Inputs(plan, (), find_model(settings.model, ()), Machine("cpu", 1 << 30))
    planned, _, _ = online_roles(inputs)
    assert planned == expected


def test_bytes_of_moments_in_8_bits() -> None:
    # A byte for each of two moments, and for each 256 of them a float32 scale.
    assert moment_bytes(4096, "adamw_8bit") == 2 * (4096 + 4 * 16)
    assert moment_bytes(4097, "paged_adamw_8bit") == 2 * (4097 + 4 * 17)
    assert moment_bytes(4095, "adamw_8bit") == 8 * 4095  # which is too small
    assert moment_bytes(4096, "adamw") == 8 * 4096


def test_a_frozen_model_in_bf16_has_two_bytes_a_weight() -> None:
    lm = frozen_model(new_config("llama", LLAMA), "m", None, half=True)
    assert sum(p.nbytes for p in lm.model.parameters()) == 2 * BASE


def test_bytes_of_a_base_in_4_bits() -> None:
    # Codes of half a byte, a byte for each 64 weights, four for each 256 · 64; one set per matrix.
    matrices = LAYERS * [WIDTH * HEADS * HEAD] * 2 + LAYERS * [WIDTH * KEYS * HEAD] * 2
    matrices += LAYERS * [WIDTH * INNER] * 3
    packed = sum(n // 2 + n // 64 + 4 for n in matrices)  # none has more than 256 · 64 weights
    known = sizes(lora={"r": 3})
    lora = adapter_role(known, half=True, four_bit=True)
    adapter = 3 * LAYERS * ENDS
    assert lora.quantised == packed
    assert lora.weights == 2 * (BASE - sum(matrices)) + 2 * adapter
    assert lora.total == packed + lora.weights + (4 + 4 + 8) * adapter
    frozen = frozen_role(sizes(heads=1), half=False, four_bit=True)
    assert (frozen.quantised, frozen.weights) == (packed, 4 * (BASE - sum(matrices)) + 4 * WIDTH)
