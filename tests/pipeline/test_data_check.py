"""`accord data check`: what training would use of a data set, counted as training counts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.cli.entry import run
from accord.errors import RequestError
from accord.pipeline.data_check import check_data


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rows: list[dict[str, object]] = [
        {"prompt": "Write about a pan", "chosen": "A pan " * n, "rejected": "A pot"}
        for n in (1, 1, 1, 30)
    ]
    return write(tmp_path / "pairs.jsonl", [*rows, {"prompt": "a " * 60, "chosen": "b"}, rows[0]])


def test_what_training_would_use_is_what_it_uses(
    pairs: str, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, limits = str(tiny_world / "model"), ["max_length=40", "long_responses=drop"]
    command = ["data", "check", pairs, f"--model={model}", "--max-length=40", limits[1]]
    assert run(command) == 0
    shown = capsys.readouterr().out
    train = [f"model={model}", f"dataset={pairs}", f"output_dir={tmp_path / 'out'}", "max_steps=1"]
    assert run(["train", "dpo", *train, *limits]) == 0
    encoded = json.loads((tmp_path / "out/data.json").read_text())["encoded"]
    assert encoded["used"] == 4
    assert f"4 of 5 rows used, {encoded['tokens']:,} tokens" in shown
    assert shown.startswith(f"{pairs}, read as comparisons: 6 rows, 5 used, 1 dropped")
    [dropped] = encoded["dropped"]
    assert f"\n{dropped}: rows 4 (1)\n" in shown  # the row's number in the file
    # Before the limits: the prompts of five pairs have one length, and the longest response is
    # that of row 4, far above the limit of 40 tokens.
    _, table = shown.split("tokens before limits")
    response = next(line.split() for line in table.splitlines() if line.startswith("response"))
    assert int(response[-1]) > 60


def test_prompts_and_their_limit(tmp_path: Path, tiny_world: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "a pan"}, {"prompt": "a pan " * 50}])
    shown = check_data(
        path,
        model=str(tiny_world / "model"),
        method="rloo",
        overrides=["max_prompt_length=20", "max_new_tokens=8"],
    ).summary
    assert "`rloo` on" in shown
    assert "1 of 2 rows used" in shown
    assert "rows 2 (1)" in shown


def test_battles_and_missing_models(tmp_path: Path, tiny_world: Path) -> None:
    battle = {"model_a": "x", "model_b": "y", "winner": "model_a"}
    path = write(tmp_path / "battles.jsonl", [battle])
    shown = check_data(path).summary
    assert "read as battles: 1 rows, 1 used" in shown
    assert "`accord arena battles=" in shown
    with pytest.raises(RequestError, match="which are rated and not learned: `accord arena"):
        check_data(path, model=str(tiny_world / "model"))
    with pytest.raises(RequestError, match="Name it with --model PATH"):
        check_data(path, overrides=["max_length=5"])
