"""Judges: who compares responses. One function from prompts' responses to verdicts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from accord.compare.judges.judge import AiJudge, Candidates, NoVerdict, Ranks
from accord.compare.rewards.models import model_reward
from accord.compare.rewards.reward import Reward
from accord.errors import SettingsError
from accord.lm.load import load_scalar
from accord.records import Prompt, prompt_text, ranks_from_scores
from accord.settings.rewards import FlawSettings
from accord.settings.stages import JudgeSettings
from accord.world.annotators import perceived_reward, simulated_preference
from accord.world.reward import true_reward


class Judge(Protocol):
    """Sets the responses to each prompt in order: their ranks, or an honest NoVerdict.

    Many prompts at once, since a judge at an endpoint answers several at a time.
    """

    def __call__(self, candidates: Sequence[Candidates], /) -> Sequence[Ranks | NoVerdict]: ...


@dataclass(frozen=True, slots=True)
class NamedJudge:
    """A judge and the name under which its verdicts are kept; `usage` is what it counted.

    `shown_first` is the side of a pair that it sees first, None where it sees both orders.
    """

    name: str
    judge: Judge
    usage: Callable[[], Mapping[str, int]] | None = None
    shown_first: Literal["a"] | None = "a"


def judge_of(settings: JudgeSettings) -> NamedJudge:
    """The judge that the settings describe. Raises SettingsError when a key is missing."""
    if settings.kind == "endpoint":
        assert settings.model is not None  # the settings see to it
        ai = AiJudge(settings, settings.model)
        return NamedJudge(settings.name or settings.model, ai.ranks, ai.usage, shown_first=None)
    if settings.kind == "reward_model":
        if settings.model is None:
            raise SettingsError(
                "judge.kind=reward_model needs judge.model, the reward model's folder."
            )
        scores = model_reward(load_scalar(settings.model))
        return NamedJudge(settings.name or settings.model, by_reward(scores))
    name = settings.name or f"world-noise-{settings.noise:g}"
    return NamedJudge(name, _annotator(settings))


def by_reward(reward: Reward) -> Judge:
    """A judge that ranks by a reward; equal scores tie."""

    def ranks(one: Candidates) -> Ranks:
        scores = reward([one.prompt] * len(one.responses), one.responses, one.finished)
        return ranks_from_scores(scores)

    return lambda questions: [ranks(one) for one in questions]


def _annotator(settings: JudgeSettings) -> Judge:
    def ranks(one: Candidates) -> Ranks:
        texts = (prompt_text(one.prompt), *one.responses)
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        rng = random.Random(f"{settings.name} {one.seed} {digest}")
        perceived = [perceived_reward(one.prompt, r, settings.flaws) for r in one.responses]
        return simulated_preference(perceived, noise=settings.noise, rng=rng)

    return lambda questions: [ranks(one) for one in questions]


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
