"""Supervised fine-tuning: which tokens are learned, and the loss on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from accord.lm.load import load_causal
from tests.learn.toys.files import user_says, write_jsonl
from tests.learn.toys.plain_forward import plain_logp
from tests.learn.toys.saved import ROWS, SavedToys, train
from tests.lm.toys import toy_tokenizer


@pytest.mark.parametrize("loss_on", ["response", "assistant", "all"])
def test_loss_on_selects_the_tokens_of_a_conversation(
    loss_on: str, toys: SavedToys, tmp_path: Path
) -> None:
    messages = [
        *user_says("the cat"),
        {"role": "assistant", "content": "sat on the mat"},
        *user_says("a dog"),
        {"role": "assistant", "content": "ran"},
    ]
    data = write_jsonl(tmp_path / "conversation.jsonl", [{"messages": messages}])
    settings = toys.settings("sft", "llama", tmp_path / "out", dataset=data, loss_on=loss_on)
    (result,) = train("sft", settings)
    tokenizer = toy_tokenizer()
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    role = tokenizer.convert_tokens_to_ids("<|assistant|>")
    # The assistant's turns: from after the role token to the end token.
    learned = [False] * len(ids)
    for i, token in enumerate(ids):
        if token == role:
            end = ids.index(2, i)
            learned[i + 1 : end + 1] = [True] * (end - i)
    if loss_on == "response":
        last_turn = len(ids) - ids[::-1].index(role)
        learned[:last_turn] = [False] * last_turn
    elif loss_on == "all":
        learned = [False] + [True] * (len(ids) - 1)
    with torch.no_grad():
        logits = load_causal(toys.model("llama")).model(input_ids=torch.tensor([ids])).logits[0]
    logps = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
    expected = -float(logps[torch.tensor(learned[1:])].mean())
    assert result.metrics["loss"] == pytest.approx(expected, rel=1e-4)
    encoded = json.loads((tmp_path / "out" / "data.json").read_text())["encoded"]
    assert encoded["answers_not_learned"] == (loss_on == "response")


def test_the_loss_is_the_mean_log_prob_of_the_completions(toys: SavedToys, tmp_path: Path) -> None:
    settings = toys.settings("sft", "llama", tmp_path, per_device_train_batch_size=3)
    (result,) = train("sft", settings)
    lm, tokenizer = load_causal(toys.model("llama")), toy_tokenizer()
    total, count = 0.0, 0
    for row in ROWS["sft.jsonl"]:
        shown = tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(shown, add_special_tokens=False)["input_ids"]
        response = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [2]
        total -= float(plain_logp(lm.model, prompt, response).detach())
        count += len(response)
    assert result.metrics["loss"] == pytest.approx(total / count, rel=1e-4)
