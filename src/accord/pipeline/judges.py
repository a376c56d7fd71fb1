"""Judges: who compares responses. One function from a prompt's responses to a verdict."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from accord.compare.rewards import Reward, reward_of_model
from accord.errors import SettingsError
from accord.lm.load import load_scalar
from accord.records import Prompt, prompt_text
from accord.settings.rewards import FlawSettings
from accord.settings.stages import JudgeSettings
from accord.world.annotators import perceived_reward, simulated_preference
from accord.world.reward import true_reward


class Judge(Protocol):
    """The place of each response to a prompt, 0 best, equal = tie. `seed` fixes its noise.

    `finished[i]` is False for a response that was cut before its end.
    """

    def __call__(
        self, prompt: Prompt, responses: Sequence[str], finished: Sequence[bool], *, seed: int
    ) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class NamedJudge:
    """A judge and the name under which its verdicts are kept."""

    name: str
    judge: Judge


def judge_of(settings: JudgeSettings) -> NamedJudge:
    """The judge that the settings describe. Raises SettingsError when a key is missing."""
    if settings.kind == "reward_model":
        if settings.model is None:
            raise SettingsError(
                "judge.kind=reward_model needs judge.model, the reward model's folder."
            )
        scores = reward_of_model(load_scalar(settings.model))
        return NamedJudge(settings.name or settings.model, by_reward(scores))
    name = settings.name or f"world-noise-{settings.noise:g}"
    return NamedJudge(name, _annotator(settings))


def by_reward(reward: Reward) -> Judge:
    """A judge that ranks by a reward; equal scores tie."""

    def judge(
        prompt: Prompt, responses: Sequence[str], finished: Sequence[bool], *, seed: int
    ) -> tuple[int, ...]:
        scores = reward([prompt] * len(responses), responses, finished)
        return tuple(sum(other > score for other in scores) for score in scores)

    return judge


def _annotator(settings: JudgeSettings) -> Judge:
    def judge(
        prompt: Prompt, responses: Sequence[str], finished: Sequence[bool], *, seed: int
    ) -> tuple[int, ...]:
        digest = hashlib.sha256("\0".join((prompt_text(prompt), *responses)).encode()).hexdigest()
        rng = random.Random(f"{settings.name} {seed} {digest}")
        perceived = [perceived_reward(prompt, text, settings.flaws) for text in responses]
        return simulated_preference(perceived, noise=settings.noise, rng=rng)

    return judge


def world_reward(
    prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool] | None = None
) -> list[float]:
    """The embedded world's true reward, as a Reward."""
    return [true_reward(p, r) for p, r in zip(prompts, responses, strict=True)]


def flawed_reward(flaws: FlawSettings) -> Reward:
    """The true reward with planted flaws, as annotators perceive it."""

    def reward(
        prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        return [perceived_reward(p, r, flaws) for p, r in zip(prompts, responses, strict=True)]

    return reward
