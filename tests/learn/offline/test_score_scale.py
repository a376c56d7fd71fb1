"""The scale of a reward model's scores: mean 0 and deviation 1, and on which rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from accord.compare.dataset import load_records
from accord.compare.rewards.models import model_reward
from accord.errors import DataError
from accord.learn.offline.train import train_offline
from accord.lm.forward import response_scores
from accord.lm.load import load_scalar
from accord.lm.packing import PromptGroup, pack
from accord.lm.tokens.encode import Limits, encode
from accord.records import Comparison, Demonstration, Message
from tests.learn.toys.files import user_says, write_jsonl
from tests.learn.toys.saved import ROWS, SavedToys, train
from tests.lm.toys import toy_tokenizer


def test_a_trained_reward_has_mean_0_and_deviation_1(toys: SavedToys, tmp_path: Path) -> None:
    settings = toys.settings("reward", "llama", tmp_path, max_steps=3)
    train("reward", settings)
    numbers = json.loads((tmp_path / "model" / "reward.json").read_text())
    lm = load_scalar(str(tmp_path / "model"))
    assert (lm.score_mean, lm.score_std) == (numbers["mean"], numbers["std"])
    records, _ = load_records(settings.dataset, "preferences")
    pairs = [r for r in records if isinstance(r, Comparison)]
    prompts = [r.prompt for r in pairs] * 2
    texts = [r.chosen for r in pairs] + [r.rejected for r in pairs]
    scores = torch.tensor(model_reward(lm, batch_size=4)(prompts, texts))
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-4)
    one_by_one = model_reward(lm, batch_size=1)(prompts, texts)
    assert scores.tolist() == pytest.approx(one_by_one, abs=1e-4)


def test_with_reference_rows_the_scale_is_set_on_them(toys: SavedToys, tmp_path: Path) -> None:
    settings = toys.settings("reward", "llama", tmp_path, reference_dataset=toys.data("sft"))
    train("reward", settings)
    lm = load_scalar(str(tmp_path / "model"))
    records, _ = load_records(toys.data("sft"), "sft")
    groups, _ = encode(records, lm.tokenizer, Limits(64), eos_ids=lm.eos_ids)
    with torch.no_grad():
        raw = response_scores(lm, pack(groups))
    assert lm.score_mean == pytest.approx(float(raw.mean()), abs=1e-5)
    assert lm.score_std == pytest.approx(float(raw.std()), abs=1e-5)


def test_of_reference_pairs_the_chosen_responses_set_the_scale(
    toys: SavedToys, tmp_path: Path
) -> None:
    settings = toys.settings("reward", "llama", tmp_path, reference_dataset=toys.data("reward"))
    train("reward", settings)
    lm = load_scalar(str(tmp_path / "model"))
    chosen = [
        Demonstration((Message(**row["prompt"][0]),), row["chosen"]) for row in ROWS["pairs.jsonl"]
    ]
    groups, _ = encode(chosen, lm.tokenizer, Limits(64), eos_ids=lm.eos_ids)
    with torch.no_grad():
        raw = response_scores(lm, pack(groups))
    assert lm.score_mean == pytest.approx(float(raw.mean()), abs=1e-5)


def test_dropped_and_cut_reference_rows_are_reported_and_logged(
    toys: SavedToys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*ROWS["sft.jsonl"], {"prompt": user_says("a dog"), "completion": ""}]
    data = write_jsonl(tmp_path / "reference.jsonl", rows)
    settings = toys.settings(
        "reward",
        "llama",
        tmp_path / "out",
        reference_dataset=data,
        max_length=12,
        long_responses="cut",
    )
    with caplog.at_level(logging.INFO):
        train("reward", settings)
    report = json.loads((tmp_path / "out" / "reference_data.json").read_text())
    assert report["read"]["place"] == data
    assert list(report["read"]["dropped"]) == ["an empty response"]
    assert report["encoded"]["responses_cut"] == 2
    assert f"mean and standard deviation are set on the responses of {data}" in caplog.text
    assert "1 an empty response (reference.jsonl:4)" in caplog.text
    assert "reference.jsonl: 3 of 3 rows used" in caplog.text


@pytest.mark.parametrize(
    "rows", [None, [], [{"prompt": "no response"}], [{"prompt": "p", "completion": ""}]]
)
def test_reference_rows_that_can_not_be_used_fail_before_training(
    rows: list[dict[str, str]] | None, toys: SavedToys, tmp_path: Path
) -> None:
    path = tmp_path / "reference.jsonl"
    if rows is not None:
        write_jsonl(path, rows)
    settings = toys.settings("reward", "llama", tmp_path / "out", reference_dataset=str(path))
    with pytest.raises(DataError, match=r"reference\.jsonl"):
        next(train_offline("reward", settings))


def test_an_unfinished_response_is_scored_without_an_end(toys: SavedToys) -> None:
    lm = load_scalar(toys.reward_model("llama"))
    reward = model_reward(lm)
    tokenizer = toy_tokenizer()
    prompt = tuple(tokenizer("the cat", add_special_tokens=False)["input_ids"])
    text = tuple(tokenizer(" sat", add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        raw = response_scores(lm, pack([PromptGroup(prompt, (text, (*text, 2)))]))
    unfinished, finished = ((raw - 0.5) / 2.0).tolist()
    assert reward(["the cat"] * 2, [" sat"] * 2, [False, True]) == pytest.approx(
        [unfinished, finished]
    )
    assert reward(["the cat"], [" sat"]) == pytest.approx([finished])
