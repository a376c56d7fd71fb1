"""Online methods in several processes learn what one does on as many episodes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.learn.one_online import CASES, run
from tests.learn.test_processes import launched

pytestmark = pytest.mark.slow

# Of a pass, so not the same where passes are others.
BY_PASS = ("seconds", "val/ratio_var")


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of 8 episodes each have learned, in a folder for each case."""
    folder = tmp_path_factory.mktemp("two")
    launched(2, "tests.learn.one_online", "8", str(folder))
    return folder


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key not in BY_PASS:
            nan = isinstance(value, float) and math.isnan(value)
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=nan), key


@pytest.mark.parametrize("name", CASES)
def test_two_processes_of_8_episodes_are_one_of_16(
    name: str, in_two: Path, tmp_path: Path
) -> None:
    told, tensors = run(CASES[name], 16, tmp_path)
    first, second = (json.loads((in_two / name / f"told-{i}.json").read_text()) for i in (0, 1))
    assert first["texts"] == told["texts"]
    assert len({len(text) for texts in told["texts"] for text in texts}) > 2  # unequal lengths
    assert len(first["rows"]) == len(told["rows"])
    for found, expected in zip(first["rows"], told["rows"], strict=True):
        close(found, expected)
    for key in ("3 unseen", "1 unseen"):
        if key in told:
            close(first[key], told[key])
    assert first["error"] == told["error"]
    state = [load_file(in_two / name / f"state-{i}.safetensors") for i in (0, 1)]
    for key, value in tensors.items():
        assert torch.equal(state[0][key], state[1][key]), key
        size = float(value.norm())
        assert float((state[0][key] - value).norm()) <= 1e-4 * size + 1e-6, key
    # What a process is told must not depend on which it is.
    for mine, other in zip(first["rows"], second["rows"], strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in other.items() if k != "seconds"}, rel=0, abs=0, nan_ok=True
        )


def test_the_cases_are_what_they_say(in_two: Path) -> None:
    def rows(name: str) -> Any:
        return json.loads((in_two / name / "told-0.json").read_text())["rows"]

    assert [r["skipped"] for r in rows("a broken reward")] == [0.0, 1.0, 0.0]
    assert [r["skipped"] for r in rows("always broken")] == [1.0, 1.0]  # the third ends the run
    assert [r["rolled_back"] for r in rows("limit")][:2] == [0.0, 1.0]
    assert len({r["objective/beta"] for r in rows("ppo")}) == 3
    assert not list(in_two.glob("**/start-*"))
