"""Rows and fields that are read but not learned from: held-out rows, and unused margins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.learn.offline import reference_cache
from accord.learn.offline import train as offline_train
from accord.lm.packing import pack
from tests.learn.toys.files import write_jsonl
from tests.learn.toys.saved import ROWS, SavedToys, train


@pytest.mark.parametrize("method", ["reward", "dpo", "ipo", "kto", "orpo", "simpo"])
def test_margins_that_a_method_does_not_learn_from_are_reported(
    method: str, toys: SavedToys, tmp_path: Path
) -> None:
    pairs = ROWS["pairs.jsonl"]
    rows = [{**row, "margin": 1.5} for row in pairs[:2]] + pairs[2:]
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    train(method, toys.settings(method, "llama", tmp_path / "out", dataset=data))
    notes = json.loads((tmp_path / "out" / "data.json").read_text())["read"]["notes"]
    note = "the margins of 2 pairs are not used: only `reward` learns from them"
    assert notes == ([] if method == "reward" else [note])


@pytest.mark.parametrize(("method", "is_read"), [("reward", False), ("dpo", True)])
def test_a_reward_model_learns_from_answers_without_their_reasoning(
    method: str, is_read: bool, toys: SavedToys, tmp_path: Path
) -> None:
    rows = ROWS["pairs.jsonl"]
    reasoned = [{**row, "chosen": f"<think>the cat</think>{row['chosen']}"} for row in rows]
    losses, notes = [], []
    for name, data in (("plain", rows), ("reasoned", reasoned)):
        path = write_jsonl(tmp_path / f"{name}.jsonl", data)
        settings = toys.settings(method, "llama", tmp_path / name, dataset=path, max_steps=2)
        losses.append([result.metrics["loss"] for result in train(method, settings)])
        report = json.loads((tmp_path / name / "data.json").read_text())
        notes.append(report["read"]["notes"])
    assert (losses[0] != losses[1]) == is_read
    note = f"the reasoning in the responses of {len(rows)} records is not read: a reward model "
    assert notes == [[], [] if is_read else [f"{note}scores answers"]]


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_held_out_rows_are_evaluated_and_not_learned(
    method: str, toys: SavedToys, tmp_path: Path
) -> None:
    held_out = write_jsonl(tmp_path / "held_out.jsonl", ROWS["pairs.jsonl"][:1])
    runs = []
    for name, options in (
        ("evaluated", {"eval_dataset": held_out, "eval_steps": 1}),
        ("plain", {}),
    ):
        settings = toys.settings(method, "llama", tmp_path / name, max_steps=2, **options)
        runs.append(train(method, settings))
    evaluated, plain = runs
    for result, plain_result in zip(evaluated, plain, strict=True):
        assert "eval/loss" in result.metrics
        assert 0 <= result.metrics["eval/rewards/accuracies"] <= 1
        assert result.metrics["loss"] == plain_result.metrics["loss"]
    weights = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("evaluated", "plain")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_passes_without_gradient_have_the_same_token_limit(
    method: str, toys: SavedToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_sizes: list[int] = []

    def counted(groups: Any, device: Any) -> Any:
        pass_sizes.append(len(groups))
        return pack(groups, device)

    for module in (offline_train, reference_cache):
        monkeypatch.setattr(module, "pack", counted)
    last_metrics = []
    for name, max_tokens, rows_in_a_pass in (("whole", None, 3), ("alone", 1, 1)):
        monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache" / name))
        settings = toys.settings(
            method,
            "llama",
            tmp_path / name,
            eval_dataset=toys.data(method),
            max_tokens_per_forward=max_tokens,
        )
        last_metrics.append(train(method, settings)[-1].metrics)
        assert set(pass_sizes) == {rows_in_a_pass}
        pass_sizes.clear()
    whole, alone = (
        {name: value for name, value in metrics.items() if name.startswith("eval/")}
        for metrics in last_metrics
    )
    assert alone == pytest.approx(whole, abs=1e-4)
    if method == "reward":
        whole, alone = (
            json.loads((tmp_path / name / "model" / "reward.json").read_text())
            for name in ("whole", "alone")
        )
        for number in ("mean", "std"):
            assert alone[number] == pytest.approx(whole[number], abs=1e-4)
