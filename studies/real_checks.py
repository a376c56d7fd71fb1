"""The models of the study `real` beside plain transformers, peft and TRL.

Each check computes a number twice, once with accord and once with a library that knows nothing of
it, from the same folder and the same texts. All is computed in fp32.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from real_trl import make_reward_model, trl_checks
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

import accord
from accord.compare.dataset import load_records
from accord.lm import Limits, encode, load_causal, pack, response_logps
from accord.records import Comparison, prompt_json

NUM_PAIRS = 8
NUM_PROMPTS = 8
NEW_TOKENS = 32
LIMITS = Limits(512, 384, "drop", "drop")
LOGP_TOLERANCE = 1e-3  # nats per token; fp32 sums in another order
SCORE_TOLERANCE = 1e-3


def run_checks(folder: Path, base: str, trl_python: Path | None) -> list[dict[str, Any]]:
    """A row for each check: what was compared, beside what, the result, and whether it is equal."""
    run = folder / "run"
    pairs = read_pairs(run / "data" / "test.jsonl", base)
    models = {"base": base, "sft": f"{run}/sft/model", "dpo": f"{run}/dpo/model"}
    models |= {"ppo": f"{run}/ppo/model"}
    checks = [compare_tokens(pairs, base)]
    for name, path in models.items():
        checks.append(compare_log_probs(name, path, base, pairs))
        checks.append(compare_greedy(name, path, base, pairs))
    checks.append(compare_scores("reward", f"{run}/reward/model", base, pairs))
    if trl_python is None:
        print("TRL is not here (`make .venv-trl`, or --trl-python): its steps are left out.")
        return checks
    second_hand = make_reward_model(folder, base, run / "data" / "train.jsonl", trl_python)
    checks.append(compare_scores("a reward model that TRL made", second_hand, base, pairs))
    return checks + trl_checks(folder, base, pairs, trl_python)


def read_pairs(path: Path, model: str, count: int = NUM_PAIRS) -> list[Comparison]:
    """The first pairs that the limits do not drop."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    records, _ = load_records(str(path), "comparisons")
    pairs: list[Comparison] = []
    for record in records:
        assert isinstance(record, Comparison)
        lengths = [len(rendered_ids(tokenizer, record, text)[1]) for text in both(record)]
        if max(lengths) <= LIMITS.max_length and len(pairs) < count:
            pairs.append(record)
    return pairs


def both(pair: Comparison) -> tuple[str, str]:
    return pair.chosen, pair.rejected


def rendered_ids(tokenizer: Any, pair: Comparison, response: str) -> tuple[list[int], list[int]]:
    """The ids of the prompt and of the whole conversation, as transformers' template gives them."""
    turns = prompt_json(pair.prompt)
    assert isinstance(turns, list)
    options = {"tokenize": True, "return_dict": False}
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **options)
    answered = [*turns, {"role": "assistant", "content": response}]
    return prompt, tokenizer.apply_chat_template(answered, **options)


def compare_tokens(pairs: Sequence[Comparison], model: str) -> dict[str, Any]:
    lm = load_causal(model, device="cpu")
    groups, _ = encode(pairs, lm.tokenizer, LIMITS, eos_ids=lm.eos_ids)
    equal = 0
    for pair, group in zip(pairs, groups, strict=True):
        for text, response in zip(both(pair), group.responses, strict=True):
            prompt, whole = rendered_ids(lm.tokenizer, pair, text)
            ids = [*group.prompt, *response]
            # What the template writes behind the end of the answer is not part of it.
            is_same = list(group.prompt) == prompt and ids == whole[: len(ids)]
            equal += is_same and not lm.tokenizer.decode(whole[len(ids) :]).strip()
    total = 2 * len(pairs)
    return {
        "what": "token ids of prompt and answer",
        "beside": "apply_chat_template",
        "result": f"{equal} of {total} equal",
        "equal": equal == total,
    }


def load_plain(path: str, base: str, auto: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """A folder as transformers loads it, or peft on its base."""
    is_adapter = (Path(path) / "adapter_config.json").is_file()
    model = auto.from_pretrained(base if is_adapter else path, dtype=torch.float32, **options)
    return (PeftModel.from_pretrained(model, path) if is_adapter else model).eval()


@torch.no_grad()
def compare_log_probs(
    name: str, path: str, base: str, pairs: Sequence[Comparison]
) -> dict[str, Any]:
    lm = load_causal(path, device="cpu")
    groups, _ = encode(pairs, lm.tokenizer, LIMITS, eos_ids=lm.eos_ids)
    logps = response_logps(lm, pack(groups, lm.device)).split(
        [len(response) for group in groups for response in group.responses]
    )
    plain, worst = load_plain(path, base), 0.0
    for row, (pair, text) in zip(logps, texts_of(pairs), strict=True):
        prompt, whole = rendered_ids(lm.tokenizer, pair, text)
        expected = plain_log_probs(plain, whole, len(prompt))[: len(row)]
        worst = max(worst, float((row - expected).abs().max()))
    return {
        "what": f"{name}: log-probs of {sum(map(len, logps))} answer tokens",
        "beside": "peft" if isinstance(plain, PeftModel) else "transformers",
        "result": f"differ by at most {worst:.1e}",
        "equal": worst < LOGP_TOLERANCE,
    }


def texts_of(pairs: Sequence[Comparison]) -> Iterator[tuple[Comparison, str]]:
    return ((pair, text) for pair in pairs for text in both(pair))


def plain_log_probs(model: Any, ids: Sequence[int], start: int) -> Tensor:
    logits = model(torch.tensor([ids])).logits[0, start - 1 : -1]
    targets = torch.tensor(ids[start:])
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@torch.no_grad()
def compare_greedy(name: str, path: str, base: str, pairs: Sequence[Comparison]) -> dict[str, Any]:
    """The likeliest answers. Where two tokens are as likely as each other to rounding, either may
    be taken, so a difference counts only where the libraries' own log-probs tell them apart."""
    prompts = [prompt_json(pair.prompt) for pair in pairs[:NUM_PROMPTS]]
    answers = accord.sample(path, prompts, max_new_tokens=NEW_TOKENS, temperature=0, device="cpu")
    plain, tokenizer = load_plain(path, base), AutoTokenizer.from_pretrained(path)
    equal = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = plain.generate(**ids, do_sample=False, max_new_tokens=NEW_TOKENS)
        text = tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        equal += text == answer.responses[0]
    return {
        "what": f"{name}: greedy answers of {NEW_TOKENS} tokens",
        "beside": "generate",
        "result": f"{equal} of {len(prompts)} equal",
        "equal": equal == len(prompts),
    }


@torch.no_grad()
def compare_scores(name: str, path: str, base: str, pairs: Sequence[Comparison]) -> dict[str, Any]:
    """A reward model's scores: accord's are normalised by the numbers in reward.json."""
    prompts = [prompt_json(pair.prompt) for pair, _ in texts_of(pairs)]
    scores = accord.score(path, prompts, [text for _, text in texts_of(pairs)], device="cpu")
    numbers = read_reward_file(path)
    plain = load_plain(path, base, AutoModelForSequenceClassification, num_labels=1)
    padding = AutoTokenizer.from_pretrained(path).pad_token_id
    plain.config.get_text_config().pad_token_id = (
        padding  # transformers reads at the last other one
    )
    lm = load_causal(base, device="cpu")
    expected = []
    for pair, text in texts_of(pairs):
        prompt, whole = rendered_ids(lm.tokenizer, pair, text)
        if numbers:  # accord's own are read at the token that ends the answer
            whole = whole[: end_of_answer(whole, len(prompt), lm.eos_ids)]
        score = float(plain(torch.tensor([whole])).logits[0, 0])
        expected.append((score - numbers.get("mean", 0.0)) / numbers.get("std", 1.0))
    worst = max(map(abs, (a - b for a, b in zip(scores, expected, strict=True))))
    return {
        "what": f"{name}: scores of {len(scores)} answers",
        "beside": "AutoModelForSequenceClassification",
        "result": f"differ by at most {worst:.1e}",
        "equal": math.isfinite(worst) and worst < SCORE_TOLERANCE,
    }


def read_reward_file(path: str) -> dict[str, Any]:
    file = Path(path) / "reward.json"
    numbers: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return numbers


def end_of_answer(ids: Sequence[int], start: int, eos_ids: frozenset[int]) -> int:
    return next(i for i in range(start, len(ids)) if ids[i] in eos_ids) + 1
