"""A world of one-token answers in which the best policy is known in closed form.

Two prompts, eight possible answers, a table of rewards. The policy that maximises expected reward
under a KL penalty is π*(y|x) ∝ π_ref(y|x)·exp(r(x, y)/β) (Ziebart 2010; Rafailov et al. 2023,
eq. 4). Every method that claims to optimise that objective has to reach it. `make_tree` is the
same with answers of up to three tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from accord.lm.forward import check_packing, response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack

ANSWERS = 8
EOS = 2
"""Ends an answer of the tree; of the one-token world it is an answer like any other."""
PROMPTS = ((0, 3), (5, 1))
_CONFIG = {
    "vocab_size": ANSWERS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


class NumberTokenizer:
    """Tokens are numbers, and read as such."""

    eos_token_id: int | None = None
    pad_token_id = None

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        return " ".join(str(t) for t in tokens)


@dataclass
class World:
    policy: LanguageModel
    reference: LanguageModel
    critic: LanguageModel
    rewards: Tensor  # (prompts, answers)
    prompts: tuple[tuple[int, ...], ...] = PROMPTS
    answers: tuple[tuple[int, ...], ...] = tuple((y,) for y in range(ANSWERS))

    def distribution(self, lm: LanguageModel) -> Tensor:
        """π(y|x), (prompts, answers)."""
        batch = pack([PromptGroup(p, self.answers) for p in self.prompts])
        with torch.no_grad():
            logps = batch.per_response(response_logps(lm, batch))
        return logps.view(len(self.prompts), len(self.answers)).exp()

    def reward(
        self, prompts: Sequence[Any], texts: Sequence[str], finished: Any = None
    ) -> list[float]:
        """The table's reward of each answer, read as numbers; a prompt is its number."""
        ends = self.policy.eos_ids
        answers = [" ".join(str(t) for t in y if t not in ends) for y in self.answers]
        return [
            float(self.rewards[int(p), answers.index(text)])
            for p, text in zip(prompts, texts, strict=True)
        ]

    def optimum(self, beta: float) -> Tensor:
        weights = self.distribution(self.reference) * (self.rewards / beta).exp()
        return weights / weights.sum(1, keepdim=True)

    def kl_to_optimum(self, beta: float) -> float:
        """Mean over prompts of KL(π‖π*), in nats."""
        policy, best = self.distribution(self.policy), self.optimum(beta)
        return float((policy * (policy / best).log()).sum(1).mean())


def make_world(seed: int) -> World:
    return _world(seed, _CONFIG, NumberTokenizer(), World.prompts, World.answers)


TREE = (
    (EOS,),
    *((a, EOS) for a in range(2)),
    *((a, b, c) for a in range(2) for b in range(2) for c in range(3)),
)


def make_tree(seed: int) -> World:
    """Answers of up to three of the tokens 0, 1 and 2, of which 2 ends one: 15 in all."""
    tokenizer = NumberTokenizer()
    tokenizer.eos_token_id = EOS
    config = {**_CONFIG, "vocab_size": 3}
    return _world(seed, config, tokenizer, ((EOS, 0), (EOS, 1)), TREE)


def _world(
    seed: int,
    config: dict[str, Any],
    tokenizer: NumberTokenizer,
    prompts: tuple[tuple[int, ...], ...],
    answers: tuple[tuple[int, ...], ...],
) -> World:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(5.0)  # a reference that already prefers some answers
    scalar = AutoModelForSequenceClassification.from_config(
        LlamaConfig(**config, num_labels=1)
    ).eval()
    rewards = torch.randn(len(prompts), len(answers))

    def wrap(inner: Any, **more: Any) -> LanguageModel:
        lm = LanguageModel(inner, tokenizer, "toy", **more)
        assert check_packing(lm)
        return lm

    copied = wrap(copy.deepcopy(model))
    return World(
        wrap(model), copied, wrap(scalar, scalar=True), rewards, prompts=prompts, answers=answers
    )
