"""Small models that take part in online learning, and what the tests of it share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from accord.learn.loop.learner import Learner
from accord.learn.loop.optimiser import adamw
from accord.learn.loop.state import TrainState
from accord.learn.online.guards import OnlineState
from accord.learn.online.roles import Roles
from accord.lm.forward import check_packing
from accord.lm.model import LanguageModel
from accord.records import PromptOnly, Source
from accord.respond.local.sampler import LocalSampler
from accord.settings.groups import GROUP_METHODS
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PPO_METHODS
from tests.lm.models import causal, scalar

PROMPTS = [(5, 9, 11), (7,), (8, 4)]
RECORDS = [PromptOnly(str(i), Source("prompts.jsonl", i + 1)) for i in range(3)]
SETTINGS: dict[str, Any] = {
    **PPO_METHODS,
    **GROUP_METHODS,
}


class NumberTokenizer:
    """Tokens are numbers, and read as such."""

    def __init__(self, eos_token_id: Any = 2) -> None:
        self.eos_token_id = eos_token_id

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        return " ".join(str(t) for t in tokens)


def settings_of(method: str = "ppo", **more: Any) -> Any:
    own = {} if method == "ppo" else {"num_generations": 4}
    return SETTINGS[method](
        **{
            "model": "toy",
            "dataset": "toy",
            "output_dir": "nowhere",
            "reward_model": "toy",
            "per_device_train_batch_size": 8,
            "max_new_tokens": 6,
            "learning_rate": 1e-3,
            **own,
            **more,
        }
    )


def length(
    prompts: Sequence[Any], texts: Sequence[str], finished: Sequence[bool] | None = None
) -> list[float]:
    return [float(len(text.split()) % 4) for text in texts]


def digits(
    prompts: Sequence[Any], texts: Sequence[str], finished: Sequence[bool] | None = None
) -> list[float]:
    """Differs for any two responses that differ, all but surely."""
    each = (enumerate(text.split(), 1) for text in texts)
    return [sum((int(t) * 0.37**i for i, t in tokens), 0.0) % 3 for tokens in each]


def roles_of(method: str = "ppo", sharp: float = 3.0) -> Roles:
    # Any of many tokens ends a response to be compared, so that they differ in length.
    tokenizer = NumberTokenizer(2 if method == "ppo" else list(range(24)))

    def wrap(inner: Any, **more: Any) -> LanguageModel:
        with torch.no_grad():
            for parameter in inner.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(sharp)
        lm = LanguageModel(inner, tokenizer, "toy", **more)
        assert check_packing(lm)
        return lm

    policy, reference = wrap(causal("llama")), wrap(causal("llama", seed=3))
    critic = wrap(scalar("llama"), scalar=True) if method == "ppo" else None
    reward = length if method == "ppo" else digits
    return Roles(policy, critic, reference, reward, LocalSampler(policy))


def state_of(roles: Roles, settings: OnlineSettings) -> TrainState[OnlineState]:
    models = {"policy": roles.policy, "critic": roles.critic}
    return TrainState(
        {
            name: Learner(
                lm.trainable_parameters(), adamw(lm.trainable_parameters().values(), settings)
            )
            for name, lm in models.items()
            if lm is not None
        },
        OnlineState(beta=settings.beta),
    )


def weights(lm: LanguageModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in lm.trainable_parameters().values()]


def moved(before: list[torch.Tensor], lm: LanguageModel) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, weights(lm), strict=True))
