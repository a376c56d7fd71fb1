"""What KTO's mismatched responses need, beside the same pass on a model with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.learn.loop.learner import make_learner
from accord.learn.offline.rows import load_starting_model
from accord.learn.plan.live import LiveBytes
from accord.lm.forward import response_stats
from accord.lm.packing import PromptGroup, pack
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.run import plan_stage
from accord.settings.preferences import KtoSettings
from accord.settings.recipe import single_stage
from tests.learn.toys.files import user_says, write_jsonl
from tests.lm.toys import save_toy

CPU = Machine("cpu", 1 << 40)
ROWS = 6


@pytest.mark.parametrize("longest", [30, 3])
def test_a_step_of_kto_needs_what_is_planned(longest: int, tmp_path: Path) -> None:
    """The mismatched responses are read without gradient: nothing of them is saved."""
    save_toy(tmp_path / "model")
    names = ["cat", "dog", "mat", "hat", "sat", "ran"]
    rows = [
        {"prompt": user_says(f"the {name}"), "completion": f"{name} " * longest, "label": i % 2}
        for i, name in enumerate(names)
    ]
    write_jsonl(tmp_path / "labels.jsonl", [{**row, "label": bool(row["label"])} for row in rows])
    values = [
        f"model={tmp_path}/model",
        f"dataset={tmp_path}/labels.jsonl",
        f"output_dir={tmp_path}/out",
        "device=cpu",
        f"per_device_train_batch_size={ROWS}",
        "num_train_epochs=2",
    ]
    stage = plan_stage(single_stage("train", "kto", overrides=values), (), CPU)
    assert stage.memory is not None
    assert stage.facts is not None
    assert len(stage.facts.mismatched) == ROWS
    phases = {phase.name: phase.parts for phase in stage.memory.phases}

    settings = stage.plan.settings
    assert isinstance(settings, KtoSettings)
    lm = load_starting_model(settings, scalar=False)
    learner = make_learner(lm, settings)
    groups = [
        PromptGroup((1,) * prompt, tuple((2,) * n for n in responses))
        for prompt, responses in stage.facts.largest
    ]
    extra = [(3,) * n for n in stage.facts.mismatched]
    batch = pack(groups)
    _ = batch.attention.blocks
    response_stats(lm, batch).logps.sum().backward()  # the gradients of an earlier pass are there
    held = [*lm.model.parameters(), *lm.model.buffers(), *learner.parameters.values()]
    live = LiveBytes([*held, *(p.grad for p in learner.parameters.values() if p.grad is not None)])
    with live:
        loss = response_stats(lm, batch, extra_responses=extra).logps.sum()
        forward, _ = live.mark()
        loss.backward()
        backward, _ = live.mark()
    measured = max(forward, backward)
    planned = phases["forward and backward"]["activations"]
    assert planned == pytest.approx(measured, rel=0.1)
