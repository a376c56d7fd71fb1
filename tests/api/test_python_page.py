"""docs/python.md: its code runs from top to bottom, and it names what `accord` exports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import accord
from tests.lm.toys import save_toy

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_toy(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "runs/dpo/model/adapter_model.safetensors").is_file()
    assert re.fullmatch(r"Run\(dpo, 4 steps, loss 0\.\d+, .*, in memory\)", repr(names["run"]))
    assert re.fullmatch(
        r"Battles\(8: grpo wins 0\.\d+ \(.*\) against start\)", repr(names["battles"])
    )
    assert names["report"].proof.result == "fail"


@pytest.mark.parametrize(
    "name",
    "train steps sample score compare rate check_judge probe audit redteam load_model".split(),
)
def test_every_function_is_on_the_page(name: str) -> None:
    assert f"`accord.{name}(" in PAGE
    assert name in accord.__all__
