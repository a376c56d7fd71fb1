"""A world of one-token answers in which the best policy is known in closed form.

Two prompts, eight possible answers, a table of rewards. The policy that maximises expected reward
under a KL penalty is π*(y|x) ∝ π_ref(y|x)·exp(r(x, y)/β) (Ziebart 2010; Rafailov et al. 2023,
eq. 4). Every method that claims to optimise that objective has to reach it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from accord.lm.forward import check_packing, response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack

ANSWERS = 8
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

    eos_token_id = None
    pad_token_id = None

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        return " ".join(str(t) for t in tokens)


@dataclass
class World:
    policy: LanguageModel
    reference: LanguageModel
    critic: LanguageModel
    rewards: Tensor  # (prompts, answers)

    def distribution(self, lm: LanguageModel) -> Tensor:
        """π(y|x), (prompts, answers)."""
        groups = [PromptGroup(p, tuple((y,) for y in range(ANSWERS))) for p in PROMPTS]
        with torch.no_grad():
            return response_logps(lm, pack(groups)).view(len(PROMPTS), ANSWERS).exp()

    def optimum(self, beta: float) -> Tensor:
        weights = self.distribution(self.reference) * (self.rewards / beta).exp()
        return weights / weights.sum(1, keepdim=True)

    def kl_to_optimum(self, beta: float) -> float:
        """Mean over prompts of KL(π‖π*), in nats."""
        policy, best = self.distribution(self.policy), self.optimum(beta)
        return float((policy * (policy / best).log()).sum(1).mean())


def make_world(seed: int) -> World:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**_CONFIG)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(5.0)  # a reference that already prefers some answers
    scalar = AutoModelForSequenceClassification.from_config(
        LlamaConfig(**_CONFIG, num_labels=1)
    ).eval()
    rewards = torch.randn(len(PROMPTS), ANSWERS)

    def wrap(inner: Any, **more: Any) -> LanguageModel:
        lm = LanguageModel(inner, NumberTokenizer(), "one-token", **more)
        assert check_packing(lm)
        return lm

    return World(wrap(model), wrap(copy.deepcopy(model)), wrap(scalar, scalar=True), rewards)
