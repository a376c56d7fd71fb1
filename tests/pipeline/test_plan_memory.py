"""Plans of bases in 4 bits, moments in 8 bits and offloaded activations."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accord.errors import SettingsError
from accord.learn.plan.phases import COMPILED_PRODUCTS, PRODUCT
from accord.lm.load import load_causal, save_model
from accord.pipeline.plan.changes import changed, remedies
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.run import PlannedStage, plan_stage
from accord.pipeline.plan.text import role_table
from accord.settings.recipe import StagePlan, single_stage
from tests.learn.toys.files import user_says, write_jsonl
from tests.lm.toys import save_toy, with_adapters

CPU, GPU = Machine("cpu", 1 << 40), Machine("cuda", 1 << 40)
LORA: dict[str, Any] = {"lora": {"r": 2}}
NF4 = {**LORA, "quantization": "nf4"}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StagePlan:
    root = tmp_path_factory.mktemp("memory")
    save_toy(root / "model")
    rows = [{"prompt": user_says("the cat"), "chosen": "sat " * 40, "rejected": "no"}] * 8
    write_jsonl(root / "pairs.jsonl", rows)
    values = [f"model={root}/model", f"dataset={root}/pairs.jsonl", f"output_dir={root}/out"]
    return single_stage("train", "dpo", overrides=values)


def planned(plan: StagePlan, machine: Machine = CPU, **values: Any) -> PlannedStage:
    return plan_stage(changed(plan, **values), (), machine)


def phase(stage: PlannedStage, name: str) -> dict[str, int]:
    assert stage.memory is not None
    return dict(next(p.parts for p in stage.memory.phases if p.name == name))


def test_4_bit_weights_are_a_column_and_a_part_of_each_phase(plan: StagePlan) -> None:
    plain, four_bit = planned(plan, **LORA), planned(plan, **NF4)
    assert plain.memory is not None
    assert four_bit.memory is not None
    held = four_bit.memory.roles["model"].quantised
    assert 0 < held < plain.memory.roles["model"].weights / 7
    for each in four_bit.memory.phases:
        assert each.parts["4-bit weights"] == held
    # The largest of the matrices, 48 · 32 float32 numbers, is expanded in a pass.
    assert phase(four_bit, "forward and backward")["copies"] == 4 * 48 * 32
    assert phase(four_bit, "reference log-probs")["copies"] == 4 * 48 * 32
    shown = {}
    for name, stage in (("plain", plain), ("four_bit", four_bit)):
        assert stage.memory is not None
        console = Console(file=StringIO(), width=140)
        console.print(role_table(stage.memory.roles))
        shown[name] = console.file.getvalue()  # type: ignore[attr-defined]
    assert "4-bit weights" in shown["four_bit"]
    assert "4-bit weights" not in shown["plain"]


def test_what_saves_memory_is_offered(plan: StagePlan) -> None:
    full = {r.change for r in remedies(planned(plan, num_train_epochs=2), (), CPU, {})}
    assert "optim=adamw_8bit" in full
    assert "quantization=nf4" not in full  # adapters come first
    adapters = {r.change for r in remedies(planned(plan, **LORA), (), CPU, {})}
    assert "quantization=nf4" in adapters
    assert "quantization=nf4" not in {r.change for r in remedies(planned(plan, **NF4), (), CPU, {})}


def test_8_bit_moments_are_planned(plan: StagePlan) -> None:
    plain, small = planned(plan), planned(plan, optim="adamw_8bit")
    assert plain.memory is not None
    assert small.memory is not None
    before, after = (s.memory.roles["model"].moments for s in (plain, small) if s.memory)
    # The embeddings, 300 · 32 numbers, are the only parameter of at least 4096.
    assert before - after == 8 * 9600 - (2 * 9600 + 8 * 38)


def test_offloaded_activations_are_not_on_the_gpu(plan: StagePlan) -> None:
    long = {"per_device_train_batch_size": 8}
    stages = {
        (machine.device, on): planned(plan, machine, **long, activation_offload=on)
        for machine in (CPU, GPU)
        for on in (False, True)
    }
    parts = {k: phase(s, "forward and backward")["activations"] for k, s in stages.items()}
    assert parts["cuda", True] < 0.8 * parts["cuda", False]
    assert parts["cpu", True] == parts["cpu", False]


def test_an_adapter_that_would_be_merged_into_4_bits(plan: StagePlan, tmp_path: Path) -> None:
    lm = with_adapters(load_causal(str(plan.settings.model)), seed=0)  # type: ignore[attr-defined]
    save_model(lm, tmp_path / "adapter", card="")
    start = changed(plan, model=str(tmp_path / "adapter"))
    with pytest.raises(SettingsError, match=r"continue_adapter=true.*accord merge"):
        planned(start, **NF4)
    continued = {**NF4, "lora": {"r": 2, "continue_adapter": True}}
    assert planned(start, **continued).memory is not None


def test_each_step_in_bf16_compiles_its_products_on_a_cpu(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)

    def beside(machine: Machine, **values: Any) -> int:
        memory = planned(plan, machine, **LORA, **values).memory
        assert memory is not None
        return memory.allocation.workspace

    plain = beside(CPU)
    two, four, many = (beside(CPU, precision="bf16", max_steps=n) - plain for n in (2, 4, 10_000))
    # q, k, v, o, gate, up, down and the head at least, forward and backward.
    assert two >= 2 * 14 * PRODUCT
    assert four == 2 * two
    assert many == COMPILED_PRODUCTS * PRODUCT
    assert beside(GPU, precision="bf16", max_steps=2) == beside(GPU)
    for capacity, retained in (("5", 5), ("", COMPILED_PRODUCTS)):
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", capacity)
        assert beside(CPU, precision="bf16", max_steps=10_000) - plain == retained * PRODUCT


IN_USE = Machine("cuda", 1 << 39, total=1 << 40)  # vLLM's share is of the whole device


@pytest.mark.parametrize(
    ("machine", "awake"), [(GPU, {"sampling"}), (IN_USE, {"sampling"}), (CPU, None)]
)
def test_vllm_in_this_process_has_its_share_while_it_is_awake(
    machine: Machine, awake: set[str] | None, plan: StagePlan
) -> None:
    settings: Any = plan.settings
    values = [f"model={settings.model}", f"dataset={settings.dataset}", "output_dir=out"]
    values += ["rewards=[{kind: length, at_most: 5}]", "sampler={kind: vllm, mode: colocate}"]
    online = single_stage("train", "grpo", overrides=values)
    stage = plan_stage(online, (), machine)
    assert stage.memory is not None
    phases = {p.name: p.parts.get("vLLM, at most") for p in stage.memory.phases}
    share = int(0.3 * (1 << 40))  # gpu_memory_utilization
    assert {name for name, part in phases.items() if part == share} == (awake or set(phases))
    assert set(phases.values()) <= {share, None}


@pytest.mark.parametrize(
    ("sampler", "here"),
    [
        ("{kind: local}", {"keys and values", "logits"}),
        ("{kind: vllm, mode: colocate}", set()),
        ("{kind: vllm, url: 'http://127.0.0.1:8000'}", set()),
    ],
)
def test_only_a_policy_that_samples_itself_has_keys_values_and_logits(
    sampler: str, here: set[str], plan: StagePlan
) -> None:
    settings: Any = plan.settings
    values = [f"model={settings.model}", f"dataset={settings.dataset}", "output_dir=out"]
    values += ["rewards=[{kind: length, at_most: 5}]", f"sampler={sampler}"]
    parts = phase(plan_stage(single_stage("train", "grpo", overrides=values), (), CPU), "sampling")
    assert {"keys and values", "logits"} & set(parts) == here
