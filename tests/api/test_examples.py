"""The examples run; the plain torch loop gives what accord's own loop gives."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import accord
from tests.lm.toys import save_toy

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PAIRS = [
    {"prompt": "say", "chosen": " the sea", "rejected": " a cat"},
    {"prompt": "ask", "chosen": " the sun", "rejected": " a dog sat"},
]


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    save_toy(tmp_path / "model")
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS * 8), encoding="utf-8")
    return [str(tmp_path / "model"), str(path)]


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


def test_torch_loop_is_short_and_learns_as_accord_does(inputs: list[str], tmp_path: Path) -> None:
    source = (EXAMPLES / "torch_loop.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 60
    losses = load("torch_loop.py")["main"](*inputs, str(tmp_path / "out"))
    # In the file's order both have the same rows in each step of 8: 4 times the two pairs.
    run = accord.train(
        "dpo",
        model=inputs[0],
        dataset=inputs[1],
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        progress=False,
    )
    assert losses[0] == pytest.approx(run.metrics[0]["loss"], abs=1e-6)
    assert (tmp_path / "out/model.safetensors").is_file()


def test_custom_methods_run(inputs: list[str]) -> None:
    dpo, online = load("custom_method.py")["main"](*inputs)
    assert (dpo.method, len(dpo.metrics)) == ("dpo", 3)
    assert (online.method, len(online.metrics)) == ("grpo", 2)


@pytest.mark.slow
def test_the_notebook_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    names = load("notebook.py")
    assert names["battles"].win_rate.low > 0.5
    assert (names["folder"] / "curves.png").is_file()
