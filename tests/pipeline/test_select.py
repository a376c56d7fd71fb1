"""Best-of-N by any sources: the response with the highest weighted sum is selected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.data.write import ResponseRow, read_responses, write_responses
from accord.errors import RewardError
from accord.pipeline.stages.sample import select
from accord.records import Response
from accord.settings.reading.load import build
from accord.settings.stages import SelectSettings

ANSWERS = {"2+2?": ("it is 5", "well, well, it is 4", "4"), "1+2?": ("three", "3 3 3 3", "so 3")}


@pytest.fixture
def responses(tmp_path: Path) -> str:
    rows = [
        ResponseRow(
            prompt, {"answer": answer}, "m", {}, tuple(Response(prompt, t, "m") for t in texts)
        )
        for (prompt, texts), answer in zip(ANSWERS.items(), ("4", 3), strict=True)
    ]
    write_responses(tmp_path / "responses.jsonl", rows)
    return str(tmp_path / "responses.jsonl")


def chosen(responses: str, n: int, *rewards: dict[str, Any]) -> list[str]:
    out = Path(responses).parent / "best"
    required = {"responses": responses, "output_dir": str(out), "n": n, "model_name": "best"}
    settings = build(SelectSettings, {**required, "rewards": list(rewards)}, where="select")
    assert [progress.done for progress in select(settings)][-1] == 2
    return [row.responses[0].text for row in read_responses(out / "responses.jsonl")]


def test_the_highest_sum_is_selected(responses: str) -> None:
    right = {"kind": "answer", "compare": "number"}
    assert chosen(responses, 3, right) == ["well, well, it is 4", "3 3 3 3"]
    short = {"kind": "length", "at_most": 0, "penalty": 0.1}
    assert chosen(responses, 3, right, short) == ["4", "so 3"]
    assert chosen(responses, 3, right, {**short, "weight": -1.0}) == [
        "well, well, it is 4",
        "3 3 3 3",
    ]
    assert chosen(responses, 2, right, short) == ["well, well, it is 4", "3 3 3 3"]
    assert chosen(responses, 3, {"kind": "repetition", "ngram": 1}) == ["it is 5", "three"]


def test_a_missing_column_is_an_error(responses: str) -> None:
    with pytest.raises(RewardError, match=r"column `gold`, .*Its other columns: `answer`"):
        chosen(responses, 3, {"kind": "answer", "column": "gold"})


def test_responses_that_no_reward_applies_to_are_not_the_best(
    responses: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def some(responses):\n    return [None if ' ' in r else -1.0 for r in responses]\n"
        "def never(responses):\n    return [None] * len(responses)\n"
    )
    some, never = (
        {"kind": "python", "function": f"{tmp_path}/mine.py:{name}"} for name in ("some", "never")
    )
    assert chosen(responses, 3, some) == ["4", "three"]
    with pytest.raises(RewardError, match=r"No reward applies to any response to .* '2\+2\?'"):
        chosen(responses, 3, never)
    logged = {"kind": "length", "at_most": 9, "weight": 0}  # is only logged
    with pytest.raises(RewardError, match="No reward applies"):
        chosen(responses, 3, never, logged)
