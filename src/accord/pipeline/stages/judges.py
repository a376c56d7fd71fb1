"""Judges: functions from responses to the same prompt to their ranks."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from accord.compare.judges.build import build_ai_judge, judge_name
from accord.compare.judges.identity import judge_fingerprint
from accord.compare.judges.questions import BothOrders, Candidates, NoVerdict, RankedPairs, Ranks
from accord.compare.rewards.models import model_reward
from accord.compare.rewards.reward import Reward
from accord.compare.store.fingerprint import JudgeFingerprint
from accord.errors import SettingsError
from accord.lm.load import load_scalar
from accord.records import Prompt, prompt_text, ranks_from_scores
from accord.settings.judge import LANGUAGE_MODELS, JudgeSettings
from accord.settings.rewards import FlawSettings
from accord.world.annotators import perceived_reward, simulated_preference
from accord.world.reward import true_reward


class Judge(Protocol):
    """Ranks the responses to each prompt, or returns a NoVerdict with the reason.

    A call takes many prompts, because a judge at an endpoint answers several at the same time.
    """

    def __call__(self, candidates: Sequence[Candidates], /) -> Sequence[Ranks | NoVerdict]: ...


@dataclass(frozen=True, slots=True)
class NamedJudge:
    """A judge with the name under which its verdicts are stored; `usage` returns its counts.

    `shown_first` is the side of a pair that it sees first, None where it sees both orders: then
    `both_orders` returns its verdicts in each, and `ranked_pairs` ranks with the verdicts on all
    pairs. `fingerprint` is a language model's.
    """

    name: str
    judge: Judge
    usage: Callable[[], Mapping[str, int]] | None = None
    shown_first: Literal["a"] | None = "a"
    both_orders: Callable[[Sequence[Candidates]], list[BothOrders]] | None = None
    ranked_pairs: Callable[[Sequence[Candidates]], list[RankedPairs | NoVerdict]] | None = None
    fingerprint: JudgeFingerprint | None = None


def build_judge(settings: JudgeSettings) -> NamedJudge:
    """The judge that the settings describe. Raises SettingsError when a key is missing."""
    if settings.kind in LANGUAGE_MODELS:
        ai = build_ai_judge(settings)
        return NamedJudge(
            judge_name(settings),
            ai.ranks,
            ai.usage,
            shown_first=None,
            both_orders=ai.both_orders,
            ranked_pairs=ai.ranked_pairs,
            fingerprint=judge_fingerprint(ai),
        )
    if settings.kind == "reward_model":
        if settings.model is None:
            raise SettingsError(
                "judge.kind=reward_model needs judge.model, the reward model's folder."
            )
        reward = model_reward(load_scalar(settings.model))
        return NamedJudge(settings.name or settings.model, reward_judge(reward))
    name = settings.name or f"world-noise-{settings.noise:g}"
    return NamedJudge(name, _annotator_judge(settings))


def reward_judge(reward: Reward) -> Judge:
    """A judge that ranks by a reward; equal scores tie.

    All responses of a call are scored together, each once, however many others it meets. There is
    no verdict where the reward does not apply to one of them (NaN).
    """

    def rank(candidate_sets: Sequence[Candidates]) -> list[Ranks | NoVerdict]:
        rows = {
            (candidates.prompt, response, finished): 0.0
            for candidates in candidate_sets
            for response, finished in zip(candidates.responses, candidates.finished, strict=True)
        }
        prompts, responses, finished = zip(*rows, strict=True) if rows else ((), (), ())
        scores = dict(zip(rows, reward(prompts, responses, finished), strict=True))
        return [_rank_by_scores(candidates, scores) for candidates in candidate_sets]

    return rank


def _rank_by_scores(
    candidates: Candidates, scores: Mapping[tuple[Prompt, str, bool], float]
) -> Ranks | NoVerdict:
    prompt = candidates.prompt
    values = [
        scores[prompt, response, finished]
        for response, finished in zip(candidates.responses, candidates.finished, strict=True)
    ]
    if any(map(math.isnan, values)):
        return NoVerdict("the reward gives no score to a response", "Use one that applies to all.")
    return ranks_from_scores(values)


def _annotator_judge(settings: JudgeSettings) -> Judge:
    """The simulated annotator, whose noise is a function of the name, the seed and the texts."""

    def rank(candidates: Candidates) -> Ranks:
        texts = (prompt_text(candidates.prompt), *candidates.responses)
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        rng = random.Random(f"{settings.name} {candidates.seed} {digest}")
        rewards = [
            perceived_reward(candidates.prompt, response, settings.flaws)
            for response in candidates.responses
        ]
        return simulated_preference(rewards, noise=settings.noise, rng=rng)

    return lambda candidate_sets: [rank(candidates) for candidates in candidate_sets]


def world_reward(
    prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool] | None = None
) -> list[float]:
    """The embedded world's true reward, as a `Reward`."""
    return [true_reward(p, r) for p, r in zip(prompts, responses, strict=True)]


def flawed_reward(flaws: FlawSettings) -> Reward:
    """The true reward with planted flaws, as annotators perceive it."""

    def reward(
        prompts: Sequence[Prompt], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> list[float]:
        return [perceived_reward(p, r, flaws) for p, r in zip(prompts, responses, strict=True)]

    return reward
