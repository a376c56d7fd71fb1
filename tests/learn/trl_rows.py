"""Models, rows, and what transformers alone reads of the rows, for the parity test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

PAD, END, USER, BOT = "<pad>", "</s>", "<user>", "<bot>"
TEMPLATE = (
    "{%- for turn in messages %}"
    "{%- if turn['role'] == 'assistant' %}"
    "{{- ' <bot> ' }}{% generation %}{{- turn['content'] + ' </s>' }}{% endgeneration %}"
    "{%- else %}{{- ' <user> ' + turn['content'] }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- ' <bot> ' }}{%- endif %}"
)
PAIRS = [
    {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran", "margin": 0.5},
    {"prompt": "a dog of the house", "chosen": " ran", "rejected": " sat on", "margin": 0.0},
    {"prompt": "who", "chosen": " the old cat ran far", "rejected": " a dog sat", "margin": 1.5},
    {"prompt": "where is a mat", "chosen": " on", "rejected": " the house of the", "margin": 0.2},
]
UNPAIRED = [
    {"prompt": "the cat", "completion": " sat on the mat", "label": True},
    {"prompt": "a dog of the house", "completion": " ran", "label": False},
    {"prompt": "who", "completion": " the old cat ran far", "label": True},
    {"prompt": "where is a mat", "completion": " on", "label": True},
]
EPISODES = [
    {**row, "advantage": advantage}
    for row, advantage in zip(UNPAIRED, (1.0, 0.5, -1.0, 0.7), strict=True)
]
SHORT_PROMPTS = [
    {"prompt": "who", "chosen": " sat on the", "rejected": " the"},
    {"prompt": "where", "chosen": " on a mat", "rejected": " the house of the old"},
    {"prompt": "a", "chosen": " dog ran far", "rejected": " sat on"},
    {"prompt": "the", "chosen": " house is old", "rejected": " cat of a"},
]
MARGINS = torch.tensor([row["margin"] for row in PAIRS])
WITHOUT_MARGIN = [{k: v for k, v in row.items() if k != "margin"} for row in PAIRS]
DEMONSTRATIONS = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in PAIRS]
DIALOGUES = [
    {
        "messages": [
            {"role": "user", "content": "who sat"},
            {"role": "assistant", "content": "the old cat"},
            {"role": "user", "content": "where"},
            {"role": "assistant", "content": "on the mat of the house"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "a dog ran"},
            {"role": "assistant", "content": "far"},
        ]
    },
]
WORDS = sorted(
    {word for row in PAIRS for key in ("prompt", "chosen", "rejected") for word in row[key].split()}
)


def save_tokenizer_and_models(folder: Path) -> None:
    """A policy, a reference a little way from it, and a reward model, with one tokenizer."""
    vocabulary = {word: i for i, word in enumerate([PAD, END, USER, BOT, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Without a BOS: ORPO's and CPO's trainers would write one, others leave it to the tokenizer.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, BOT],
        chat_template=TEMPLATE,
        model_max_length=64,
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.3,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy, reward = LlamaForCausalLM(config), LlamaForSequenceClassification(config)
        policy.save_pretrained(folder / "policy")
        reward.save_pretrained(folder / "reward")
        # A draw with which AOT matches other pairs than DPO does, and KTO's z₀ is above 0.
        torch.manual_seed(70)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.06 * torch.randn_like(parameter))
        policy.save_pretrained(folder / "reference")
    for name in ("policy", "reference", "reward"):
        tokenizer.save_pretrained(folder / name)


@dataclass(frozen=True)
class Read:
    """What models say of one response: log-probs (tokens,) under policy and reference.

    `prompt` are the policy's log-probs of the prompt's tokens but the first, `squares` (tokens,)
    log Σ p² over all that it might have said at each place.
    """

    policy: Tensor
    reference: Tensor
    prompt: Tensor
    squares: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """The responses of all rows, each read by transformers as a row of its own.

    For pairs `first` are the chosen and `second` the rejected responses; for single responses
    `second` are those of the row before (the last, for the first), read behind this row's prompt.
    """

    first: list[Read]
    second: list[Read]
    labels: Tensor

    @property
    def ratios(self) -> tuple[Tensor, Tensor]:
        """Summed log-ratios."""
        return tuple(
            torch.stack([x.policy.sum() - x.reference.sum() for x in side])
            for side in (self.first, self.second)
        )

    @property
    def lengths(self) -> tuple[Tensor, Tensor]:
        return tuple(
            torch.tensor([len(x.policy) for x in side]) for side in (self.first, self.second)
        )

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean log-probs of the policy."""
        return tuple(
            torch.stack([x.policy.mean() for x in side]) for side in (self.first, self.second)
        )


def logps_of(model: Any, ids: list[int]) -> Tensor:
    """Log-prob of each token but the first, given those before it."""
    row = torch.tensor([ids])
    logp = model(row).logits[0, :-1].log_softmax(-1)
    return logp.gather(1, row[0, 1:, None]).squeeze(1)


class Reader:
    """The saved policy, with gradients, and reference, read by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
        self.reference = AutoModelForCausalLM.from_pretrained(folder / "reference")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "policy")

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def response(self, prompt: str, text: str) -> Read:
        begin = len(self.ids(prompt))
        ids = [*self.ids(prompt + text), self.tokenizer.eos_token_id]
        policy = logps_of(self.policy, ids)
        with torch.no_grad():
            reference = logps_of(self.reference, ids)
        with torch.no_grad():
            probabilities = self.policy(torch.tensor([ids])).logits[0, :-1].softmax(-1)
        squares = probabilities.square().sum(-1).log()[begin - 1 :]
        return Read(policy[begin - 1 :], reference[begin - 1 :], policy[: begin - 1], squares)

    def turns(self, messages: list[dict[str, str]]) -> Read:
        """A dialogue's assistant turns, as its template marks them."""
        made = self.tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert sum(made["assistant_masks"]) == sum(
            len(turn["content"].split()) + 1 for turn in messages if turn["role"] == "assistant"
        )
        own = torch.tensor(made["assistant_masks"][1:], dtype=torch.bool)
        logps = logps_of(self.policy, made["input_ids"])
        return Read(logps[own], logps[own].detach(), logps[:0])

    def batch(self, rows: list[dict[str, Any]]) -> Batch:
        if "messages" in rows[0]:
            return Batch([self.turns(row["messages"]) for row in rows], [], torch.empty(0))
        if "chosen" in rows[0]:
            chosen, rejected = (
                [self.response(row["prompt"], row[key]) for row in rows]
                for key in ("chosen", "rejected")
            )
            return Batch(chosen, rejected, torch.empty(0))
        own = [self.response(row["prompt"], row["completion"]) for row in rows]
        before = [rows[-1], *rows[:-1]]
        mismatched = [
            self.response(row["prompt"], other["completion"])
            for row, other in zip(rows, before, strict=True)
        ]
        labels = torch.tensor([row.get("label", True) for row in rows])
        return Batch(own, mismatched, labels)
