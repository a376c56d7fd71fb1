"""The largest value that fits, and what to change where nothing does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.errors import RequestError
from accord.pipeline.plan.changes import changed, fit, largest_that_fits, remedies
from accord.pipeline.plan.compare import FORMS, compare
from accord.pipeline.plan.machine import LIBRARIES, Machine
from accord.pipeline.plan.measure import _short
from accord.pipeline.plan.run import PlannedStage, plan_stage
from accord.settings.recipe import StagePlan, single_stage
from tests.learn.toys.files import user_says, write_jsonl
from tests.lm.toys import save_toy


@pytest.mark.parametrize(("limit", "expected"), [(0, None), (1, 1), (7, 7), (64, 64), (100, 64)])
def test_the_largest_that_fits(limit: int, expected: int | None) -> None:
    # Of 1 to 64, those up to the limit fit.
    asked: list[int] = []

    def fits(count: int) -> bool:
        asked.append(count)
        return count <= limit

    assert largest_that_fits(fits, 1, 64) == expected
    assert max(asked) <= 64
    assert len(asked) <= 15  # doubling, then halving: each number is a plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StagePlan:
    root = tmp_path_factory.mktemp("changes")
    save_toy(root / "model")
    rows = [
        {
            "prompt": user_says("the cat"),
            "chosen": "sat on the mat " * (1 + i % 6),
            "rejected": "no",
        }
        for i in range(40)
    ]
    write_jsonl(root / "pairs.jsonl", rows)
    values = [f"model={root}/model", f"dataset={root}/pairs.jsonl", f"output_dir={root}/out"]
    return single_stage("train", "dpo", overrides=values)


def peak(stage: PlannedStage) -> int:
    assert stage.memory is not None
    return stage.memory.peak


def on(memory: int) -> Machine:
    """A machine with this much memory for a run."""
    return Machine("cpu", memory + LIBRARIES)


@pytest.mark.parametrize("key", ["per_device_train_batch_size", "max_tokens_per_forward"])
def test_a_fitted_value_fits_and_one_more_does_not(key: str, plan: StagePlan) -> None:
    large = changed(plan, per_device_train_batch_size=16)
    start = plan_stage(large, (), on(1 << 40))
    small = plan_stage(changed(plan, per_device_train_batch_size=2), (), on(1 << 40))
    machine = on((peak(start) + peak(small)) // 2)
    result = fit(key, start, (), machine, {})
    assert result.value is not None
    assert result.limit is None
    assert result.stage is not None
    assert peak(result.stage) <= machine.usable
    more = plan_stage(changed(large, **{key: result.value + 1}), (), machine)
    assert peak(more) > machine.usable


def test_a_value_that_memory_does_not_bound_says_what_does(plan: StagePlan) -> None:
    start = plan_stage(plan, (), on(1 << 40))
    result = fit("per_device_train_batch_size", start, (), on(1 << 40), {})
    assert (result.value, result.limit) == (40, "there are no more rows")
    assert fit("max_length", start, (), on(1), {}).value is None
    with pytest.raises(RequestError, match="--fit beta is unknown"):
        fit("beta", start, (), on(1), {})
    with pytest.raises(RequestError, match=r"Set lora\.r first"):
        fit("lora.r", start, (), on(1 << 40), {})


def test_remedies_begin_with_what_changes_nothing_that_is_learned(
    plan: StagePlan, tmp_path: Path
) -> None:
    # Adapters on a frozen base of 150 million parameters, which bf16 halves: that saves 300 MB. A
    # plan looks at the configuration alone, so the files of a small model will do.
    save_toy(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config |= {"hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 5}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    wide = changed(plan, model=str(tmp_path / "model"), lora={"r": 4})
    start = plan_stage(wide, (), on(1))
    table = remedies(start, (), on(1), {})
    names = [remedy.change.split("=")[0] for remedy in table]
    assert names[0] == "max_tokens_per_forward"
    assert 0 < names.index("gradient_checkpointing") < names.index("precision")
    for remedy in table:
        assert remedy.saved == peak(start) - remedy.peak > 0
        assert not remedy.fits
    assert all(remedy.fits for remedy in remedies(start, (), on(peak(start)), {}))


def test_bf16_is_no_remedy_where_it_needs_more(plan: StagePlan) -> None:
    # What it saves of this model's 0.4 MB and its passes' 2 MB is less than its own workspace.
    start = plan_stage(plan, (), on(1))
    assert peak(start) < peak(plan_stage(changed(plan, precision="bf16"), (), on(1)))
    changes = {remedy.change for remedy in remedies(start, (), on(1), {})}
    assert "gradient_checkpointing=true" in changes
    assert "precision=bf16" not in changes


def test_the_roles_of_other_methods_stand_beside_it(plan: StagePlan) -> None:
    variants = {v.name: v.memory for v in compare(plan_stage(plan, (), on(1 << 40)), on(1 << 40))}
    assert set(variants) == set(FORMS)
    full, lora = variants["PPO, full"].roles, variants["PPO, LoRA, one base"].roles
    assert set(full) == set(lora) == {"policy", "reference", "reward model", "critic"}
    # Four models against two: the frozen ones have weights alone.
    assert full["reference"].weights == full["policy"].weights
    assert full["critic"].total > full["reward model"].total
    assert lora["reference"].total == 0
    assert lora["reward model"].total < full["reward model"].total
    assert set(variants["DPO, LoRA"].roles) == {"model"}


def test_measuring_runs_the_first_steps_alone(plan: StagePlan, tmp_path: Path) -> None:
    saved = changed(plan, num_train_epochs=3, report_to="tensorboard", output_dir="runs/mine")
    stage = PlannedStage(saved, "not begun")
    short = _short(stage, str(tmp_path)).settings.model_dump()
    assert (short["max_steps"], short["max_samples"]) == (2, 16)
    assert short["report_to"] == []
    assert short["output_dir"] == f"{tmp_path}/out"
