"""Several processes, as accelerate starts them, learn what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from accord.learn.offline.methods import METHODS
from tests.conftest import ROOT
from tests.learn.one_step import one_step
from tests.lm.toys import save_toy

pytestmark = pytest.mark.slow


def start(
    count: int, *command: str, cwd: Path = ROOT, log: Path | None = None
) -> subprocess.Popen[str]:
    """Start a Python module in `count` processes, told of each other as accelerate reads it; what
    they tell goes to `log`, or to a pipe."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m"]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *command],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT}/src",
            "PYTHONHASHSEED": "0",  # peft writes the names of an adapter's layers in their order
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if log is None else log.open("a"),
        text=True,
    )


def launched(count: int, *command: str, cwd: Path = ROOT) -> None:
    """Run a Python module in `count` processes to its end."""
    running = start(count, *command, cwd=cwd)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 0, told[-3000:]


@pytest.mark.parametrize(("micro", "accumulation"), [(4, 1), (2, 2)])
def test_two_processes_of_4_are_one_of_8(micro: int, accumulation: int, tmp_path: Path) -> None:
    # Rows of unequal length, all methods: 1 × 8 in one process, 2 × 4 and 2 × 2 × 2 in two.
    launched(2, "tests.learn.one_step", str(micro), str(accumulation), str(tmp_path))
    for name in METHODS:
        expected = one_step(name, 8, 1)
        found = load_file(tmp_path / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            size = float(value.norm())
            assert float((found[key] - value).norm()) <= 1e-5 * size + 1e-7, (name, key)


def test_the_command_in_two_processes(tmp_path: Path) -> None:
    # One process writes; the losses are those of a single one.
    model = save_toy(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    lines = [
        {"prompt": f"the {word} ", "chosen": "sat on the mat", "rejected": "ran" * (i + 1)}
        for i, word in enumerate(("cat", "sea", "sun", "mat") * 2)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    losses = []
    for count in (1, 2):
        out = tmp_path / f"out{count}"
        launched(
            count,
            "accord",
            "train",
            "dpo",
            f"model={model}",
            f"dataset={rows}",
            f"output_dir={out}",
            f"per_device_train_batch_size={4 // count}",
            "learning_rate=0.001",
            "num_train_epochs=2",
        )
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").open()]
        losses.append([m["loss"] for m in metrics])
        assert (out / "model" / "config.json").is_file()
        assert json.loads((out / "manifest.json").read_text())["status"] == "finished"
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
