"""Worlds of a few possible answers, in which the best policy is known in closed form.

Two prompts, eight possible answers of one token, a table of rewards. The policy that maximises
expected reward under a KL penalty is π*(y|x) ∝ π_ref(y|x)·exp(r(x, y)/β) (Ziebart 2010; Rafailov et
al. 2023, eq. 4). Every method that claims to optimise that objective has to reach it. In the tree
world answers have up to three tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from tests.learn.toys.models import NumberTokenizer, wrap_model

NUM_ANSWERS = 8
PROMPTS = ((0, 3), (5, 1))
EOS = 2
"""Ends an answer of the tree world; in the one-token world it is an answer like any other."""
TREE_ANSWERS = (
    (EOS,),
    *((a, EOS) for a in range(2)),
    *((a, b, c) for a in range(2) for b in range(2) for c in range(3)),
)
_CONFIG = {
    "vocab_size": NUM_ANSWERS,
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


@dataclass
class World:
    policy: LanguageModel
    reference: LanguageModel
    critic: LanguageModel
    rewards: Tensor  # (prompts, answers)
    prompts: tuple[tuple[int, ...], ...] = PROMPTS
    answers: tuple[tuple[int, ...], ...] = tuple((token,) for token in range(NUM_ANSWERS))

    def distribution(self, lm: LanguageModel) -> Tensor:
        """π(y|x), (prompts, answers)."""
        batch = pack([PromptGroup(prompt, self.answers) for prompt in self.prompts])
        with torch.no_grad():
            logps = batch.per_response(response_logps(lm, batch))
        return logps.view(len(self.prompts), len(self.answers)).exp()

    def reward(
        self, prompts: Sequence[Any], texts: Sequence[str], finished: Any = None
    ) -> list[float]:
        """The table's reward of each answer, given as its text; a prompt is its number."""
        eos_ids = self.policy.eos_ids
        answer_texts = [" ".join(str(t) for t in y if t not in eos_ids) for y in self.answers]
        return [
            float(self.rewards[int(prompt), answer_texts.index(text)])
            for prompt, text in zip(prompts, texts, strict=True)
        ]

    def optimum(self, beta: float) -> Tensor:
        """π*(y|x), (prompts, answers)."""
        weights = self.distribution(self.reference) * (self.rewards / beta).exp()
        return weights / weights.sum(1, keepdim=True)

    def kl_to(self, distribution: Tensor) -> float:
        """Mean over prompts of KL(π‖distribution), in nats."""
        policy = self.distribution(self.policy)
        return float((policy * (policy / distribution).log()).sum(1).mean())

    def kl_to_optimum(self, beta: float) -> float:
        return self.kl_to(self.optimum(beta))


def make_one_token_world(seed: int) -> World:
    return _make_world(seed, _CONFIG, NumberTokenizer(), World.prompts, World.answers)


def make_tree_world(seed: int) -> World:
    """Answers of up to three of the tokens 0, 1 and 2, of which 2 ends one: 15 in all."""
    config = {**_CONFIG, "vocab_size": 3}
    return _make_world(seed, config, NumberTokenizer(EOS), ((EOS, 0), (EOS, 1)), TREE_ANSWERS)


def _make_world(
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
    critic = AutoModelForSequenceClassification.from_config(
        LlamaConfig(**config, num_labels=1)
    ).eval()
    rewards = torch.randn(len(prompts), len(answers))
    return World(
        policy=wrap_model(model, tokenizer),
        reference=wrap_model(copy.deepcopy(model), tokenizer),
        critic=wrap_model(critic, tokenizer, scalar=True),
        rewards=rewards,
        prompts=prompts,
        answers=answers,
    )


INVERSE_SLOPES = {  # u = π/π_ref of z = f'(u): 1 − 1/u, and log(2u/(1 + u))
    "forward_kl": lambda z: 1 / (1 - z),
    "js_divergence": lambda z: z.exp() / (2 - z.exp()),
}
SUPREMA = {"forward_kl": 1.0, "js_divergence": math.log(2)}  # of f', where u would be infinite


def f_divergence_optimum(world: World, divergence: str, beta: float) -> Tensor:
    """The policy that maximises E_π r − β·D_f, (prompts, answers).

    It has β·f'(u) = r − λ, with λ(x) such that π sums to 1 (Wang et al. 2023): the larger λ, the
    smaller the sum, so λ is computed by bisection.
    """
    reference = world.distribution(world.reference)
    rows = []
    for x in range(len(world.prompts)):
        low = float(world.rewards[x].max()) - beta * SUPREMA[divergence] + 1e-6
        high = low + 50.0
        for _ in range(100):
            middle = (low + high) / 2
            u = INVERSE_SLOPES[divergence]((world.rewards[x] - middle) / beta)
            low, high = (middle, high) if float((reference[x] * u).sum()) > 1 else (low, middle)
        rows.append(reference[x] * u)
    return torch.stack(rows)
