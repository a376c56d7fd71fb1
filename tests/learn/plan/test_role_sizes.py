"""The planned bytes of roles are those of roles that are loaded."""

from __future__ import annotations

from typing import Any

import pytest

from accord.learn.online.memory import memory_plan
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
from accord.pipeline.plan.estimate import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import find_model
from accord.pipeline.plan.online import online_roles
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
    assert sizes() == ModelSizes(BASE)
    assert sizes(lora={"r": 3}) == ModelSizes(BASE, 3 * LAYERS * ENDS)
    assert sizes(heads=2) == ModelSizes(BASE, 0, 2 * WIDTH)


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("critic", "lora"), CRITICS)
def test_planned_roles_are_those_that_are_loaded(
    critic: str | None, lora: dict[str, int] | None, precision: str, role_toys: RoleToys
) -> None:
    reward = role_toys.adapter_reward if lora else role_toys.whole_reward
    settings = ppo_settings(
        role_toys, critic=critic, lora=lora, precision=precision, reward_model=reward
    )
    loaded = load_roles(settings)
    (scorer,) = loaded.reward.models
    expected = memory_plan(
        {
            "policy": loaded.policy,
            "reference": loaded.reference,
            "reward model": scorer,
            "critic": loaded.critic,
        }
    )
    plan = StagePlan("ppo", "train", settings, "ppo")
    inputs = Inputs(plan, (), find_model(settings.model, ()), Machine("cpu", 1 << 30))
    planned, _, _ = online_roles(inputs)
    assert planned == expected


def test_a_frozen_model_in_bf16_has_two_bytes_a_weight() -> None:
    lm = frozen_model(new_config("llama", LLAMA), "m", None, half=True)
    assert sum(p.nbytes for p in lm.model.parameters()) == 2 * BASE
