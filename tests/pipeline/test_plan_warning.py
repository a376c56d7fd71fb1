"""A run says before its first step where the model alone does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.learn.plan.roles import ModelSizes
from accord.pipeline.plan import warning
from accord.pipeline.plan.changes import changed
from accord.pipeline.plan.estimate import files_beside
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.models import PlannedModel
from accord.pipeline.plan.warning import memory_warning
from accord.pipeline.stages import train as stage
from accord.settings.recipe import StagePlan, single_stage
from tests.lm.toys import save_toy


@pytest.fixture
def plan(tmp_path: Path) -> StagePlan:
    save_toy(tmp_path / "model")
    values = [f"model={tmp_path}/model", f"dataset={tmp_path}/rows.jsonl", "device=cpu"]
    return single_stage("train", "sft", overrides=[*values, f"output_dir={tmp_path}/out"])


def with_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(warning, "available_memory", lambda: free)


def test_what_the_model_holds_throughout_is_the_bound(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float32 a weight, its gradient and two moments: 16 bytes a parameter. The toy has
    # 300 tied embeddings, 2 layers with attention, MLP and 2 norms, and the last norm, 32 wide.
    layer = 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48 + 2 * 32
    needed = 16 * (300 * 32 + 2 * layer + 32)
    with_memory(monkeypatch, needed)
    assert memory_warning(plan) is None
    with_memory(monkeypatch, needed - 1)
    text = memory_warning(plan) or ""
    assert "`sft` does not fit" in text
    assert "take 0.38" in text


def test_the_stage_says_it_before_it_trains(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_memory(monkeypatch, 1)
    with caplog.at_level("WARNING", logger="accord"):
        stage.train(plan)
    assert "does not fit" in caplog.text


def test_a_model_that_is_not_there_is_left_to_the_stage(
    plan: StagePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 1)
    missing = plan.settings.model_copy(update={"model": "nowhere/at/all/model"})
    assert memory_warning(StagePlan("sft", "train", missing, "sft")) is None


@pytest.mark.parametrize(
    ("values", "file_bytes", "expected"),
    [
        ({}, 2000, 2000),  # float32 weights are made of 16-bit files
        ({}, 4000, 0),  # and are float32 files themselves
        ({"precision": "bf16"}, 2000, 2000),  # what is trained is loaded as float32
        ({"precision": "bf16", "lora": {"r": 2}}, 2000, 0),
        ({"precision": "bf16", "lora": {"r": 2}}, 4000, 4000),
        ({}, None, 0),
    ],
)
def test_files_count_beside_weights_of_another_precision(
    values: dict[str, Any], file_bytes: int | None, expected: int, plan: StagePlan
) -> None:
    changed_plan = changed(plan, **values)
    model = PlannedModel("m", None, file_bytes=file_bytes)
    inputs = Inputs(changed_plan, (), model, Machine("cpu", 1 << 30))
    assert files_beside(inputs, ModelSizes(1000)) == expected
