"""A prompt that ends with the assistant's turn is continued, from sampling to training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accord
from accord.compare.rewards.models import encode_for_reward
from accord.lm.tokens.encode import Limits, encode
from accord.lm.tokens.template import encode_prompt
from accord.records import Comparison, Message
from tests.lm.toys import save_toy

TURNS = [{"role": "user", "content": "one word"}, {"role": "assistant", "content": "the"}]


def test_sampling_continues_the_last_turn(tmp_path: Path) -> None:
    lm = accord.load_model(save_toy(tmp_path / "m"))
    rendered = lm.tokenizer.apply_chat_template(TURNS, tokenize=False, continue_final_message=True)
    assert rendered.endswith("<|assistant|>the")
    (begun,) = accord.sample(lm, [TURNS], max_new_tokens=6, temperature=0)
    (plain,) = accord.sample(lm, [rendered], max_new_tokens=6, temperature=0)
    assert begun.responses == plain.responses
    assert not begun.responses[0].startswith("the")  # the text is what follows the beginning
    # Rewards and training read the same prompt, with the sampled text behind it.
    prompt = (Message("user", "one word"), Message("assistant", "the"))
    ids = encode_prompt(prompt, lm.tokenizer)
    assert list(ids) == lm.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    group = encode_for_reward(lm, prompt, " sea")
    pair = Comparison(prompt, " sea", " dog")
    (row,), _ = encode([pair], lm.tokenizer, Limits(64), eos_ids=lm.eos_ids)
    assert group.prompt == row.prompt == ids
    assert group.responses[0] == row.responses[0]
    assert lm.tokenizer.decode(row.responses[0]) == " sea<|end|>"


def test_grpo_learns_from_continued_answers(tmp_path: Path) -> None:
    seen: list[str] = []

    def reward(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        seen.extend(prompt[-1]["content"] for prompt in prompts)
        return [float(i % 2) for i in range(len(completions))]

    run = accord.train(
        "grpo",
        model=save_toy(tmp_path / "m"),
        dataset=[{"prompt": TURNS}] * 2,
        reward=reward,
        max_steps=1,
        max_length=64,
        max_new_tokens=6,
        num_generations=2,
        per_device_train_batch_size=2,
        device="cpu",
    )
    assert run is not None
    assert set(seen) == {"the"}
