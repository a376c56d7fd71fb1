"""Small models in the roles of online learning, their training state, and iterations with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from accord.learn.loop.fit import StepResult
from accord.learn.loop.learner import make_learner
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import TrainState
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import run_iterations
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import PromptOrder
from accord.lm.model import LanguageModel
from accord.records import PromptOnly, Source
from accord.respond.local.sampler import LocalSampler
from accord.settings.online import OnlineSettings
from tests.learn.toys.models import NumberTokenizer, wrap_model
from tests.learn.toys.rewards import digits_reward, length_reward
from tests.lm.models import causal, scalar

PROMPTS = [(5, 9, 11), (7,), (8, 4)]
RECORDS = [PromptOnly(str(i), Source("prompts.jsonl", i + 1)) for i in range(3)]
PROMPT_ORDER = PromptOrder(PROMPTS, RECORDS, RowOrder(3, 0))
SHARPNESS = 3.0  # factor of all matrices: distributions are then far from uniform


def make_roles(method: str = "ppo") -> Roles:
    """Policy, reference and, for PPO, a critic, all with different weights.

    Any of many tokens ends a response in a group, so that a group's responses differ in length.
    """
    tokenizer = NumberTokenizer(2 if method == "ppo" else list(range(24)))

    def wrap(model: Any, **options: Any) -> LanguageModel:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(SHARPNESS)
        return wrap_model(model, tokenizer, **options)

    policy, reference = wrap(causal("llama")), wrap(causal("llama", seed=3))
    critic = wrap(scalar("llama"), scalar=True) if method == "ppo" else None
    reward = length_reward if method == "ppo" else digits_reward
    return Roles(policy, critic, reference, reward, LocalSampler(policy))


def make_state(roles: Roles, settings: OnlineSettings) -> TrainState[OnlineState]:
    models = {"policy": roles.policy, "critic": roles.critic}
    learners = {name: make_learner(lm, settings) for name, lm in models.items() if lm is not None}
    return TrainState(learners, OnlineState(beta=settings.beta))


def iterate(
    state: TrainState[OnlineState],
    roles: Roles,
    settings: Any,
    iterations: int,
    method: str = "ppo",
    **options: Any,
) -> Iterator[StepResult]:
    """Iterations of a method on the three prompts."""
    return run_iterations(
        method, state, roles, PROMPTS, RECORDS, settings, iterations=iterations, **options
    )


def copy_weights(lm: LanguageModel | None) -> list[Tensor]:
    assert lm is not None
    return [p.detach().clone() for p in lm.trainable_parameters().values()]


def copy_moments(state: TrainState[OnlineState]) -> list[Tensor]:
    """All that the optimisers remember of earlier steps."""
    return [
        value.clone()
        for learner in state.learners.values()
        for parameter in learner.parameters.values()
        for value in learner.optimiser.state.get(parameter, {}).values()
    ]


def are_equal(tensors: list[Tensor], expected: list[Tensor]) -> bool:
    return len(tensors) == len(expected) and all(map(torch.equal, tensors, expected))


def has_moved(before: list[Tensor], lm: LanguageModel | None) -> bool:
    return not are_equal(copy_weights(lm), before)
