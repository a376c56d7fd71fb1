"""The workloads that are timed: a Llama with random weights and rows of random words, or a saved
model and real conversations.

No accord in here: all sides read the same saved model and the same rows.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_LENGTH = 2048


@dataclass(frozen=True)
class Workload:
    """A model's size, and the mean lengths of prompts and responses in tokens (log-normal)."""

    vocabulary: int = 32_000
    hidden: int = 512
    layers: int = 8
    prompt: int = 120
    response: int = 90
    responses: int = 2  # per prompt
    longest: int = 384  # tokens of a prompt or a response
    rows: int = 256

    def config(self) -> LlamaConfig:
        heads = self.hidden // 64
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 8 // 3 // 64 * 64,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )


TINY = Workload(2_000, 128, 2, prompt=24, response=16, longest=48, rows=64)
# About half a billion parameters and one and a half, with the vocabulary of Qwen.
HALF_A_BILLION = Workload(150_000, 1024, 24)
BILLION_AND_A_HALF = Workload(150_000, 2048, 24)
WORKLOADS = {
    "standard": Workload(),
    "vocabulary": Workload(vocabulary=150_000),
    "long-prompts": Workload(prompt=900, response=90, longest=1600),
    "0.5B": HALF_A_BILLION,
    "1.5B": BILLION_AND_A_HALF,
    "tiny": TINY,
}


@dataclass(frozen=True)
class RealWorkload:
    """A saved chat model, and a file of conversations in HH-RLHF's text form."""

    model: Path
    dataset: Path
    rows: int = 128

    def config(self) -> Any:
        return AutoConfig.from_pretrained(self.model)


def layer_parameters(config: Any) -> int:
    """The weights of the matrix products in one layer of a Llama."""
    keys = config.hidden_size * config.num_key_value_heads // config.num_attention_heads
    attention = 2 * config.hidden_size * (config.hidden_size + keys)
    return int(attention + 3 * config.hidden_size * config.intermediate_size)


def write_real_workload(work: RealWorkload, folder: Path) -> None:
    """Link `folder`/model to the model, and write rows.json with messages, as TRL documents."""
    folder.mkdir(parents=True)
    (folder / "model").symlink_to(work.model.resolve())
    opened = gzip.open if work.dataset.suffix == ".gz" else open
    with opened(work.dataset, "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    rows = [_split_dialogues(pair) for pair in pairs]
    usable = [row for row in rows if row is not None][: work.rows]
    (folder / "rows.json").write_text(json.dumps(usable))


def _split_dialogues(pair: dict[str, str]) -> dict[str, Any] | None:
    """The shared turns as a prompt, and the last answers; None where only these do not differ."""
    (before, chosen), (other, rejected) = (
        pair[side].rsplit("\n\nAssistant:", 1) for side in ("chosen", "rejected")
    )
    if before != other or not chosen.strip() or not rejected.strip():
        return None
    turns = re.split("\n\n(Human|Assistant):", before)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    prompt = [
        {"role": roles[role], "content": text.strip()}
        for role, text in zip(turns[::2], turns[1::2], strict=True)
    ]
    answers = {
        side: [{"role": "assistant", "content": text.strip()}]
        for side, text in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": prompt, **answers}


def write_workload(work: Workload, folder: Path, device: str = "cpu") -> None:
    """Write `folder`/model with its tokenizer, and rows.json of prompts, chosen and rejected.

    `device` draws the weights: the numbers of a GPU are others, and sooner there.
    """
    whole, folder = folder, folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was ended
    folder.mkdir(parents=True)
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    vocabulary |= {f"w{i}": i for i in range(3, work.vocabulary)}
    word_tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    word_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    with torch.device(device):
        LlamaForCausalLM(work.config()).save_pretrained(folder / "model")
    (folder / "rows.json").write_text(json.dumps(_make_rows(work)))
    (folder / "work.json").write_text(json.dumps(asdict(work)))
    folder.rename(whole)


def _make_rows(work: Workload) -> list[dict[str, Any]]:
    rng = random.Random(0)

    def text(mean: int, shortest: int) -> str:
        count = int(rng.lognormvariate(0, 0.7) * mean * 0.8)
        count = max(shortest, min(work.longest, count))
        return " ".join(f"w{rng.randrange(3, work.vocabulary)}" for _ in range(count))

    rows = []
    for _ in range(work.rows):
        responses = [text(work.response, 8) for _ in range(work.responses)]
        prompt = text(work.prompt, 16) + " "
        rows.append(
            {
                "prompt": prompt,
                "chosen": responses[0],
                "rejected": responses[-1],
                "responses": responses,
            }
        )
    return rows
