"""Plans of several processes: that have the whole models, and that divide them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from accord.cli.entry import run
from accord.errors import RequestError, SettingsError
from accord.pipeline.plan import measure, warning
from accord.pipeline.plan.changes import changed, fit, remedies
from accord.pipeline.plan.extras import measured_lines
from accord.pipeline.plan.machine import (
    CUDA_CONTEXT,
    LIBRARIES,
    Machine,
    launched_processes,
    parse_machine,
)
from accord.pipeline.plan.measure import Measured
from accord.pipeline.plan.run import PlannedStage, plan_stage
from accord.pipeline.plan.warning import memory_warning
from accord.settings.recipe import StagePlan, single_stage
from tests.learn.toys.files import user_says, write_jsonl
from tests.lm.models import CONFIGS
from tests.lm.toys import save_toy

ROWS = 42
FOUR = Machine("cuda", 1 << 40, 4)
FSDP: dict[str, Any] = {"sharding": "fsdp"}
# The toy: 300 tied embeddings, 2 layers with attention, MLP and 2 norms, and the last norm.
LAYER = 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48 + 2 * 32
ROOT = 300 * 32 + 32
NUMBERS = ROOT + 2 * LAYER  # all of whose rows 4 divides


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StagePlan:
    root = tmp_path_factory.mktemp("processes")
    save_toy(root / "model")
    rows = [
        {"prompt": user_says("the cat"), "chosen": "sat " * (1 + i % 6), "rejected": "no"}
        for i in range(ROWS)
    ]
    write_jsonl(root / "pairs.jsonl", rows)
    values = [f"model={root}/model", f"dataset={root}/pairs.jsonl", f"output_dir={root}/out"]
    return single_stage("train", "dpo", overrides=values)


def online(plan: StagePlan, *values: str) -> StagePlan:
    settings: Any = plan.settings
    given = [f"model={settings.model}", f"dataset={settings.dataset}", "output_dir=out"]
    given += ["rewards=[{kind: length, at_most: 5}]", "num_generations=2", "max_new_tokens=16"]
    return single_stage("train", "grpo", overrides=[*given, *values])


def planned(plan: StagePlan, machine: Machine = FOUR, **values: Any) -> PlannedStage:
    return plan_stage(changed(plan, **values), (), machine)


def phase(stage: PlannedStage, name: str) -> dict[str, int]:
    assert stage.memory is not None
    return dict(next(p.parts for p in stage.memory.phases if p.name.startswith(name)))


def peak(stage: PlannedStage) -> int:
    assert stage.memory is not None
    return stage.memory.peak


def test_each_of_several_processes_has_the_whole_model_or_its_part(plan: StagePlan) -> None:
    whole, part = planned(plan), planned(plan, **FSDP)
    assert whole.memory is not None
    assert part.memory is not None
    role, share = whole.memory.roles["model"], part.memory.roles["model"]
    assert (role.weights, role.gradients, role.moments) == (4 * NUMBERS, 4 * NUMBERS, 8 * NUMBERS)
    assert (share.weights, share.gradients, share.moments) == (NUMBERS, NUMBERS, 2 * NUMBERS)
    assert whole.sharing.startswith("4 processes, each with the whole models (sharding=none).")
    assert part.sharing.startswith("4 processes, which divide the models (sharding=fsdp).")
    assert "gathered weights" not in phase(whole, "forward and backward")
    # Each process loads the whole model before it has its part.
    assert phase(part, "loading")["weights"] == 4 * NUMBERS
    # While it computes: the embeddings and the head, a layer, and the buffer of the next.
    assert phase(part, "reference")["gathered weights"] == 4 * (ROOT + 2 * LAYER)


def test_in_bf16_the_parts_are_float32_and_what_is_gathered_is_not(plan: StagePlan) -> None:
    stage = planned(plan, **FSDP, precision="bf16")
    assert stage.memory is not None
    role = stage.memory.roles["model"]
    assert (role.weights, role.masters, role.total) == (NUMBERS, 0, 16 * NUMBERS // 4)
    assert phase(stage, "reference")["gathered weights"] == 2 * (ROOT + 2 * LAYER)
    # A frozen base is divided too: 2 bytes a weight.
    lora = planned(plan, **FSDP, precision="bf16", lora={"r": 4})
    assert lora.memory is not None
    weights = lora.memory.roles["model"].weights
    assert 2 * NUMBERS // 4 < weights < 2 * NUMBERS // 3


def test_another_reference_is_divided_and_loaded_whole(plan: StagePlan, tmp_path: Path) -> None:
    other = save_toy(tmp_path / "other")
    stage = planned(plan, **FSDP, ref_model=str(other))
    assert stage.memory is not None
    assert stage.memory.roles["reference"].weights == NUMBERS
    loading = phase(stage, "loading the reference")
    assert loading["weights"] == NUMBERS + 4 * NUMBERS


def test_one_process_divides_nothing_and_the_plan_says_so(plan: StagePlan) -> None:
    one = replace(FOUR, count=1)
    asked, plain = planned(plan, one, **FSDP), planned(plan, one)
    assert asked.memory == plain.memory
    assert "sharding=fsdp divides nothing" in asked.sharing
    assert plain.sharing == "One process, which has the whole models."


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_steps_have_the_rows_of_all_processes(sharding: str, plan: StagePlan) -> None:
    values = {"sharding": sharding, "per_device_train_batch_size": 2}
    one = planned(plan, replace(FOUR, count=1), **values, num_train_epochs=2).facts
    four = planned(plan, **values, num_train_epochs=2).facts
    assert one is not None
    assert four is not None
    # 2 · 42 rows, 2 in a step of each process: the tokens of an epoch are the same.
    assert (one.steps, four.steps) == (42, 11)
    assert one.tokens == four.tokens
    accumulated = planned(plan, **values, gradient_accumulation_steps=3).facts
    assert accumulated is not None
    assert (accumulated.steps, accumulated.passes) == (2, 3)


def test_online_steps_have_the_prompts_of_all_processes(plan: StagePlan) -> None:
    batch = online(plan, "per_device_train_batch_size=4", "num_train_epochs=1")
    one, four = (plan_stage(batch, (), replace(FOUR, count=n)).facts for n in (1, 4))
    assert one is not None
    assert four is not None
    # 2 prompts of each process in an iteration.
    assert (one.steps, four.steps) == (ROWS // 2, -(-ROWS // 8))
    assert one.passes == four.passes
    assert len(one.largest) == len(four.largest) == 2


def test_sampling_gathers_the_whole_policy(plan: StagePlan) -> None:
    stage = plan_stage(online(plan, "sharding=fsdp", "beta=0.1"), (), FOUR)
    assert phase(stage, "sampling")["gathered weights"] == 4 * (NUMBERS + ROOT)
    assert stage.memory is not None
    assert stage.memory.roles["reference"].weights == NUMBERS
    assert "gathered weights" not in phase(plan_stage(online(plan), (), FOUR), "sampling")


def test_for_a_server_the_main_process_alone_gathers_the_policy(plan: StagePlan) -> None:
    server = "sampler={kind: vllm, url: 'http://127.0.0.1:1'}"
    embeddings = 4 * 300 * 32  # gathered in a buffer, and by gloo in a copy of it
    for machine, copies in (
        (FOUR, embeddings),
        (replace(FOUR, device="cpu"), 2 * embeddings + 4 * NUMBERS),
    ):
        parts = phase(plan_stage(online(plan, "sharding=fsdp", server), (), machine), "sampling")
        assert parts["copies"] == copies
        assert "gathered weights" not in parts


def test_a_divided_model_keeps_no_gradients_while_it_samples(plan: StagePlan) -> None:
    # Those of bf16 copies are float32 and there throughout; a divided model has no such copies.
    whole, part = (
        plan_stage(online(plan, f"sharding={name}", "precision=bf16"), (), FOUR)
        for name in ("none", "fsdp")
    )
    assert phase(whole, "sampling")["gradients"] == 4 * NUMBERS
    assert "gradients" not in phase(part, "sampling")


def test_the_main_process_gathers_what_it_saves_in_its_memory(plan: StagePlan) -> None:
    embeddings = 4 * 300 * 32  # gathered in a buffer, and by gloo in a copy of it
    on_cpu = phase(planned(plan, replace(FOUR, device="cpu"), **FSDP), "saving")
    assert on_cpu["copies"] == 2 * embeddings + 4 * NUMBERS
    assert phase(planned(plan, **FSDP), "saving")["copies"] == embeddings


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"optim": "adamw_8bit"}, "optim=adamw_8bit"),
        ({"lora": {"r": 2}, "quantization": "nf4"}, "quantization"),
        ({"activation_offload": True}, "activation_offload"),
    ],
)
def test_what_the_run_would_refuse_is_refused(
    values: dict[str, Any], match: str, plan: StagePlan
) -> None:
    with pytest.raises(SettingsError, match=match):
        planned(plan, **FSDP, **values)
    assert planned(plan, **values).memory is not None


def test_a_router_whose_loss_is_not_computed_is_refused(plan: StagePlan, tmp_path: Path) -> None:
    config = type(CONFIGS["qwen3-moe"])(
        **{**CONFIGS["qwen3-moe"].to_dict(), "output_router_logits": True}
    )
    save_toy(tmp_path / "moe")
    config.save_pretrained(tmp_path / "moe")
    with pytest.raises(SettingsError, match="router's loss"):
        planned(plan, **FSDP, model=str(tmp_path / "moe"))


def test_accelerates_configuration_divides_too(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    stage = planned(plan)
    assert "sharding=fsdp" in stage.sharing
    released = phase(stage, "forward and backward")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    resident = phase(planned(plan), "forward and backward")
    # Both layers and the root, beside a buffer of a layer.
    assert resident["gathered weights"] == 4 * (NUMBERS + LAYER)
    assert released["gathered weights"] == 4 * (ROOT + 2 * LAYER)


def test_fit_and_remedies_know_the_processes(plan: StagePlan) -> None:
    stage = planned(plan, **FSDP)
    largest = fit("per_device_train_batch_size", stage, (), FOUR, {})
    assert largest.value == -(-ROWS // 4)  # a step has all rows
    machine = Machine("cuda", peak(stage) + CUDA_CONTEXT, 4)
    assert stage.fits(machine)
    limited = fit("per_device_train_batch_size", stage, (), machine, {})
    assert limited.value is not None
    assert limited.stage is not None
    assert limited.stage.processes == 4
    offered = {r.change: r for r in remedies(planned(plan, num_train_epochs=9), (), FOUR, {})}
    assert offered["sharding=fsdp"].saved > 0
    alone = planned(plan, replace(FOUR, count=1))
    assert "sharding=fsdp" not in {
        r.change for r in remedies(alone, (), replace(FOUR, count=1), {})
    }


def test_machines_with_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parse_machine("4x80GB", None, 4) == parse_machine("80GB", None, 4)
    assert parse_machine("80GB", None, 4) == Machine("cuda", 80 << 30, 4)
    with pytest.raises(RequestError, match=r"4 processes.*--processes says 2"):
        parse_machine("4x80GB", None, 2)
    shared = parse_machine(None, "8GB", 4)  # on a CPU they share it
    assert shared.usable == (2 << 30) - LIBRARIES
    assert "4 processes" in shared.name
    assert parse_machine(None, None, 3).count == 3
    assert parse_machine(None, "8GB").count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parse_machine(None, "8GB").count == parse_machine(None, None).count == 2
    assert parse_machine("80GB", None).count == 1  # the described machine's
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(RequestError, match="WORLD_SIZE"):
        launched_processes()


def test_the_command_says_of_how_many_processes_the_memory_is(
    plan: StagePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: Any = plan.settings
    words = ["plan", "dpo", f"model={settings.model}", f"dataset={settings.dataset}"]
    words += ["output_dir=runs/out", "sharding=fsdp", "--memory", "64GB", "--processes", "2"]
    assert run(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 processes, which divide the models (sharding=fsdp)." in shown
    assert "peak of a process" in shown
    assert "passes in each process" in shown
    assert run([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["machine"]["count"] == 2
    (stage,) = content["training"]
    assert (stage["processes"], stage["divided"]) == (2, True)


def test_a_run_is_warned_of_what_one_process_holds(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    divided = changed(plan, **FSDP, device="cpu")
    # A quarter of 16 bytes a parameter, in each of four processes on one machine.
    for free, fits in ((16 * NUMBERS, True), (16 * NUMBERS - 4, False)):
        monkeypatch.setattr(warning, "available_memory", lambda free=free: free)
        text = memory_warning(divided)
        assert (text is None) == fits
    assert "in each of 4 processes" in (text or "")
    whole = changed(plan, device="cpu")
    monkeypatch.setattr(warning, "available_memory", lambda: 16 * NUMBERS)
    assert memory_warning(whole) is not None


def test_measured_steps_are_those_of_one_process(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_steps(*args: Any, **kwargs: Any) -> CompletedProcess[str]:
        assert "WORLD_SIZE" not in kwargs["env"]
        return CompletedProcess(args, 0, json.dumps({"seconds": 1.0, "peak": 1 << 30}))

    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(measure.subprocess, "run", run_steps)
    measured = measure.measure_stage(planned(plan, **FSDP), FOUR)
    alone = measure.measure_stage(planned(plan, replace(FOUR, count=1)), replace(FOUR, count=1))
    assert measured.planned == alone.planned
    stage = planned(plan, **FSDP)
    lines = list(measured_lines(stage, Measured(1.0, 1 << 30, 1 << 30), FOUR))
    assert "measured in one process" in lines[0]
