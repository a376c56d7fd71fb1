"""Several processes learn what one process does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from studies.commands import CommandServer
from studies.forked import run_forked

from accord.learn.offline.methods import METHODS
from tests.learn.offline.step_in_processes import compute_step, save_steps
from tests.learn.toys.files import read_jsonl, write_jsonl
from tests.learn.toys.kills import finish
from tests.learn.toys.launch import run_processes
from tests.lm.toys import save_toy

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("micro_batch_size", "accumulation"), [(4, 1), (2, 2)])
def test_a_step_of_two_processes_is_that_of_one_with_twice_the_rows(
    micro_batch_size: int, accumulation: int, tmp_path: Path
) -> None:
    # Rows of unequal length, all methods: 1 × 8 in one process, 2 × 4 and 2 × 2 × 2 in two.
    run_forked(
        2, lambda rank: save_steps(micro_batch_size, accumulation, tmp_path), tmp_path / "log"
    )
    for name in METHODS:
        expected = compute_step(name, 8, 1)
        tensors = load_file(tmp_path / f"{name}.safetensors")
        assert tensors.keys() == expected.keys()
        for key, value in expected.items():
            distance = float((tensors[key] - value).norm())
            assert distance <= 1e-5 * float(value.norm()) + 1e-7, (name, key)


def test_the_command_in_two_processes_gives_the_losses_of_one(
    commands: CommandServer, tmp_path: Path
) -> None:
    model = save_toy(tmp_path / "model")
    rows = write_jsonl(
        tmp_path / "rows.jsonl",
        (
            {"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran" * (i + 1)}
            for i, word in enumerate(("cat", "sea", "sun", "mat") * 2)
        ),
    )
    losses = []
    for count in (1, 2):
        output = tmp_path / f"out{count}"
        command = [
            "train",
            "dpo",
            f"model={model}",
            f"dataset={rows}",
            f"output_dir={output}",
            f"per_device_train_batch_size={4 // count}",
            "learning_rate=0.001",
            "num_train_epochs=2",
        ]
        if count == 1:
            finish(commands, command, tmp_path)
        else:
            run_processes(count, "accord", *command)
        # One process writes: each step has one row.
        losses.append([row["loss"] for row in read_jsonl(output / "metrics.jsonl")])
        assert (output / "model" / "config.json").is_file()
        assert json.loads((output / "manifest.json").read_text())["status"] == "finished"
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
