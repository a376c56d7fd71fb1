"""Several processes: what their exchange costs, and how one that hangs ends the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.learn.toys.launch import run_processes

pytestmark = pytest.mark.slow
MODULE = "tests.learn.loop.exchange_in_processes"


def test_rows_that_are_views_of_one_tensor_take_the_memory_of_their_content(
    tmp_path: Path,
) -> None:
    # 2,000 rows of 83 floats are 0.7 MB. Pickled with their whole storage they are 1.3 GB.
    run_processes(2, MODULE, "rows", str(tmp_path))
    for rank in (0, 1):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["complete"] == 1
        assert result["grown"] < 50


def test_a_process_that_does_not_answer_ends_the_others_with_a_message(tmp_path: Path) -> None:
    run_processes(2, MODULE, "hang", str(tmp_path))
    error = json.loads((tmp_path / "0.json").read_text())["error"]
    assert error.startswith("Process 0 waited ddp_timeout=2 seconds")
    assert "raise ddp_timeout" in error
