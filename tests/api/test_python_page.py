"""Pages with Python: their code runs, and docs/python.md names what `accord` exports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import accord
from tests.lm.toys import save_toy

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "python.md").read_text(encoding="utf-8")


def run_code_of(page: str) -> dict[str, Any]:
    """The names that the page's blocks of Python leave, run in a folder that holds my-model."""
    save_toy(Path("my-model"))
    names: dict[str, Any] = {}
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        exec(compile(block, f"docs/{page}", "exec"), names)
    return names


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_code_of("python.md")
    assert (tmp_path / "runs/dpo/model/adapter_model.safetensors").is_file()
    assert re.fullmatch(r"Run\(dpo, 4 steps, loss 0\.\d+, .*, in memory\)", repr(names["run"]))
    assert re.fullmatch(
        r"Battles\(8: grpo wins 0\.\d+ \(.*\) against start\)", repr(names["battles"])
    )
    assert names["report"].proof.result == "fail"
    assert names["probed"].verdict == names["probed"].to_json()["verdict"]


def test_functions_of_ones_own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_code_of("how-to/your-own-function.md")
    # The policy is the reference at the first step, so a pair's loss is log(1 + e^(0.01 · longer)).
    assert 0.6931 < names["run"].metrics[0]["loss"] < 0.7931
    assert "rewards/names_the_word/mean" in names["grpo"].metrics[0]
    assert len(names["battles"]) == 8


def test_the_judge_of_the_page_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_code_of("how-to/trusted-judge.md")["report"].proof.result == "pass"


@pytest.mark.parametrize(
    "name",
    "train steps sample score compare rate check_judge probe audit redteam load_model".split(),
)
def test_every_function_is_on_the_page(name: str) -> None:
    assert f"`accord.{name}(" in PAGE
    assert name in accord.__all__
