"""Models and rows of the parity test, and what transformers alone computes of the rows."""

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
    """A policy, a reference whose weights differ a little, and a reward model; one tokenizer."""
    vocabulary = {word: i for i, word in enumerate([PAD, END, USER, BOT, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Without a BOS: ORPO's and CPO's trainers would add one, others leave it to the tokenizer.
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
        # With this seed AOT matches other pairs than DPO does, and KTO's z₀ is above 0.
        torch.manual_seed(70)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.06 * torch.randn_like(parameter))
        policy.save_pretrained(folder / "reference")
    for name in ("policy", "reference", "reward"):
        tokenizer.save_pretrained(folder / name)


@dataclass(frozen=True)
class ResponseLogps:
    """The log-probs (tokens,) of one response under policy and reference.

    `prompt` are the policy's log-probs of the prompt's tokens but the first, `log_squares`
    (tokens,) log Σ p² over the vocabulary at each position.
    """

    policy: Tensor
    reference: Tensor
    prompt: Tensor
    log_squares: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """The responses of all rows, each computed by transformers as a separate row.

    For pairs `first` are the chosen and `second` the rejected responses. For single responses
    `second` are those of the previous row (of the last, for the first), after this row's prompt.
    """

    first: list[ResponseLogps]
    second: list[ResponseLogps]
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


def plain_logps(model: Any, ids: list[int]) -> Tensor:
    """Log-prob of each token but the first, given those before it."""
    row = torch.tensor([ids])
    logp = model(row).logits[0, :-1].log_softmax(-1)
    return logp.gather(1, row[0, 1:, None]).squeeze(1)


class PlainReader:
    """The saved policy, with gradients, and reference, computed by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
        self.reference = AutoModelForCausalLM.from_pretrained(folder / "reference")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "policy")

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def response(self, prompt: str, text: str) -> ResponseLogps:
        start = len(self.encode(prompt))
        ids = [*self.encode(prompt + text), self.tokenizer.eos_token_id]
        policy = plain_logps(self.policy, ids)
        with torch.no_grad():
            reference = plain_logps(self.reference, ids)
        with torch.no_grad():
            probabilities = self.policy(torch.tensor([ids])).logits[0, :-1].softmax(-1)
        log_squares = probabilities.square().sum(-1).log()[start - 1 :]
        return ResponseLogps(
            policy[start - 1 :], reference[start - 1 :], policy[: start - 1], log_squares
        )

    def assistant_turns(self, messages: list[dict[str, str]]) -> ResponseLogps:
        """The assistant's turns of a dialogue, as the chat template marks them."""
        encoded = self.tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert sum(encoded["assistant_masks"]) == sum(
            len(turn["content"].split()) + 1 for turn in messages if turn["role"] == "assistant"
        )
        is_assistant = torch.tensor(encoded["assistant_masks"][1:], dtype=torch.bool)
        logps = plain_logps(self.policy, encoded["input_ids"])
        return ResponseLogps(logps[is_assistant], logps[is_assistant].detach(), logps[:0])

    def batch(self, rows: list[dict[str, Any]]) -> Batch:
        if "messages" in rows[0]:
            return Batch(
                [self.assistant_turns(row["messages"]) for row in rows], [], torch.empty(0)
            )
        if "chosen" in rows[0]:
            chosen, rejected = (
                [self.response(row["prompt"], row[key]) for row in rows]
                for key in ("chosen", "rejected")
            )
            return Batch(chosen, rejected, torch.empty(0))
        responses = [self.response(row["prompt"], row["completion"]) for row in rows]
        previous_rows = [rows[-1], *rows[:-1]]
        mismatched = [
            self.response(row["prompt"], previous["completion"])
            for row, previous in zip(rows, previous_rows, strict=True)
        ]
        labels = torch.tensor([row.get("label", True) for row in rows])
        return Batch(responses, mismatched, labels)
