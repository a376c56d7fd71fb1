"""What a process holds of a model that several divide, and gathers of it in a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from accord.errors import SettingsError
from accord.learn.loop.learner import make_learner
from accord.learn.offline.rows import load_starting_model
from accord.learn.online.memory import RoleMemory
from accord.learn.online.roles import load_roles
from accord.learn.plan.exchange import ShardExchange, exchange_of
from accord.learn.plan.models import trained_model
from accord.learn.plan.passes import PassMemory
from accord.learn.plan.roles import part_numel
from accord.lm.sharding.shards import divide_weights, own_part
from accord.lm.weightless import new_config
from accord.pipeline.plan.estimate import trained, trained_role
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import find_model
from accord.pipeline.plan.online import online_roles
from accord.settings.recipe import StagePlan
from accord.settings.training import RewardSettings, SftSettings
from tests.learn.online.saved_roles import CRITICS, RoleToys, ppo_settings
from tests.learn.plan.test_role_sizes import LAYER, LAYERS, LLAMA, WIDTH, WORDS
from tests.lm.toys import save_toy


@contextmanager
def in_the_first_of(count: int) -> Iterator[Any]:
    """A mesh of so many processes, of which this is the first, and the others do not exist."""
    torch.distributed.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shape", [(7, 3), (8, 3), (2, 5), (1,), (9,)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_largest_part_is_the_first_that_torch_makes(shape: tuple[int, ...], parts: int) -> None:
    tensor = torch.zeros(shape)
    assert part_numel(tensor, parts) == torch.chunk(tensor, parts, dim=0)[0].numel()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, {"r": 3}])
@pytest.mark.parametrize("scalar", [False, True])
def test_the_planned_part_is_that_which_a_process_has(
    scalar: bool, lora: dict[str, int] | None, precision: str, tmp_path: Path
) -> None:
    count = 4
    save_toy(tmp_path / "model")
    values = {"model": str(tmp_path / "model"), "dataset": "rows", "output_dir": "out"}
    options: dict[str, Any] = {"lora": lora, "precision": precision, "sharding": "fsdp"}
    settings = (RewardSettings if scalar else SftSettings)(**values, **options, device="cpu")
    with in_the_first_of(count) as mesh:
        lm = load_starting_model(settings, scalar=scalar)
        divide_weights([lm], mesh)
        learner = make_learner(lm, settings)
        parts = {n: own_part(p).detach() for n, p in lm.view_parameters().items()}
        # Of a part that is smaller than others torch holds as many rows: it is padded.
        weights = sum(p.untyped_storage().nbytes() for p in parts.values())
        learned = sum(p.numel() for p in learner.parameters.values())
    plan = StagePlan("stage", "train", settings, "reward" if scalar else "sft")
    inputs = Inputs(plan, (), find_model(settings.model, ()), Machine("cpu", 1 << 30, count))
    role = trained_role(inputs, trained(inputs, heads=1 if scalar else 0))
    # The gradients of what is trained and its two moments are float32.
    assert role == RoleMemory(weights, 0, 4 * learned, 8 * learned)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("critic", "lora"), CRITICS)
def test_the_planned_parts_of_roles_are_those_that_a_process_has(
    critic: str | None, lora: dict[str, int] | None, precision: str, tmp_path: Path
) -> None:
    toys = RoleToys(tmp_path)
    settings = ppo_settings(
        toys,
        critic=critic,
        lora=lora,
        precision=precision,
        reward_model=toys.adapter_reward if lora else toys.whole_reward,
        sharding="fsdp",
    )
    inputs = Inputs(
        StagePlan("ppo", "train", settings, "ppo"),
        (),
        find_model(settings.model, ()),
        Machine("cpu", 1 << 30, 4),
    )
    planned, _, _ = online_roles(inputs)
    with in_the_first_of(4) as mesh:
        models = load_roles(settings)
        divide_weights(models.models, mesh)
        learners = [make_learner(lm, settings) for lm in (models.policy, models.critic) if lm]
        parts = [own_part(p) for lm in models.models for p in lm.view_parameters().values()]
        # By their memory: views on one base share theirs.
        storages = [p.detach().untyped_storage() for p in parts]
        weights = sum({s.data_ptr(): s.nbytes() for s in storages}.values())
        learned = sum(p.numel() for each in learners for p in each.parameters.values())
    assert sum(role.weights for role in planned.values()) == weights
    assert sum(role.masters for role in planned.values()) == 0
    assert sum(role.gradients for role in planned.values()) == 4 * learned
    assert sum(role.moments for role in planned.values()) == 8 * learned


def exchange(**values: Any) -> ShardExchange:
    options = {k: values.pop(k, v) for k, v in (("staging", False), ("releases_layers", True))}
    size = 2 if values.get("precision") == "bf16" else 4
    settings = SftSettings(model="m", dataset="d", output_dir="o", **values)
    lm = trained_model(new_config("llama", LLAMA), "m", None, settings)
    return exchange_of(lm, element_size=size, **options)


def test_the_groups_are_the_layers_and_all_else() -> None:
    root = WORDS * WIDTH + WIDTH  # tied embeddings and the last norm
    full = exchange()
    assert (full.root, full.layer, full.whole) == (4 * root, 4 * LAYER, 4 * (root + LAYERS * LAYER))
    assert (full.root_gradient, full.root_sum, full.layer_sum) == (4 * root, 4 * root, 4 * LAYER)
    assert full.parameter == 4 * WORDS * WIDTH
    half = exchange(precision="bf16")  # weights and gradients of 2 bytes, sums of 4
    assert (half.root, half.root_gradient, half.root_sum) == (2 * root, 2 * root, 4 * root)
    lora = exchange(lora={"r": 3})
    assert (lora.root_gradient, lora.head_gradient, lora.root_sum) == (0, 0, 0)
    assert 0 < lora.layer_gradient < lora.layer


def test_an_untied_embedding_has_its_gradient_last() -> None:
    settings = SftSettings(model="m", dataset="d", output_dir="o")
    config = new_config("llama", {**LLAMA, "tie_word_embeddings": False})
    lm = trained_model(config, "m", None, settings)
    untied = exchange_of(lm, element_size=4, staging=False, releases_layers=True)
    assert untied.root_gradient == 4 * (2 * WORDS * WIDTH + WIDTH)
    assert untied.head_gradient == 4 * (WORDS * WIDTH + WIDTH)


def test_the_most_is_at_the_begin_of_the_way_back_or_at_its_end() -> None:
    sizes = exchange()
    root, layer = sizes.root, sizes.layer
    long = sizes.backward(PassMemory(1, 0, 0, 10**9, 0), earlier=0, left=700)
    # The root, a layer, and the buffer of the next; the head's gradient, a layer's and its sum.
    assert sum(long.values()) == 10**9 + (root + 2 * layer) + (root + 2 * layer)
    short = sizes.backward(PassMemory(1, 0, 0, 0, 0), earlier=0, left=10**9)
    # This process's gradients, the whole ones of the root, and the buffer in which they are summed
    # when the root's weights are released, or those.
    assert sum(short.values()) == 10**9 + 2 * root
    on_cpu = exchange(staging=True).backward(PassMemory(1, 0, 0, 0, 0), earlier=0, left=10**9)
    assert sum(on_cpu.values()) == 10**9 + 3 * root
    resident = exchange(releases_layers=False)
    held = resident.backward(PassMemory(1, 0, 0, 10**9, 0), earlier=0, left=0)
    assert sum(held.values()) - sum(long.values()) == (resident.whole + layer) - (root + 2 * layer)


def test_a_pass_without_gradient_and_whole_weights() -> None:
    sizes = exchange()
    root, layer = sizes.root, sizes.layer
    assert sum(sizes.forward(0).values()) == max(2 * root + layer, root + 2 * layer)
    assert sum(sizes.forward(10**9).values()) == 10**9 + root + 2 * layer
    assert sizes.sampling == sizes.whole + max(root, layer)


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    settings = SftSettings(model="m", dataset="d", output_dir="o")
    lm = trained_model(new_config("llama", LLAMA), "m", None, settings)
    del lm.backbone.layers
    with pytest.raises(SettingsError, match="decoder layers"):
        exchange_of(lm, element_size=4, staging=False, releases_layers=True)


def test_parts_of_a_shape_by_hand() -> None:
    # 300 rows of 32 over 7 processes: 43 rows.
    assert part_numel(torch.empty(300, 32), 7) == 43 * 32
    assert part_numel(torch.empty(()), 4) == prod(())
