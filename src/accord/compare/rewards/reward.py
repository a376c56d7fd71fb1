"""Rewards: from prompts and responses, as text, to one score each. Higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accord.compare.texts import shorten
from accord.errors import RewardError
from accord.lm.model import LanguageModel
from accord.records import Prompt, prompt_text
from accord.runs import write_json_atomic
from accord.settings.rewards import FlawSettings


class Reward(Protocol):
    """One score for each prompt and response.

    `finished[i]` is False for a response that was cut before its end: a reward that reads tokens
    must not append EOS to it. By default all are finished.
    """

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]: ...


World = Callable[[FlawSettings], Reward]
"""The embedded world's reward with flaws. This folder can't import the world, so a caller that can
passes it in."""


@dataclass(frozen=True, slots=True)
class PromptResponse:
    """A prompt and a response to it. `meta` holds the other columns of the prompt's row."""

    prompt: Prompt
    response: str
    finished: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceScores:
    """A source's scores, and further numbers of each response that are logged as `SOURCE.KEY`."""

    scores: Sequence[Any]
    logged: Mapping[str, Sequence[float]]


Scorer = Callable[[Sequence[PromptResponse]], Sequence[Any] | SourceScores]
"""Computes one number for each prompt and response, and more to log where it has some."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source may need to compute its scores.

    `clip` limits the normalised scores of reward models to ± `clip`.
    """

    load_model: Callable[[str], LanguageModel]
    load_tokenizer: Callable[[str], Any]
    world: World | None = None
    clip: float | None = None


@dataclass(frozen=True, slots=True)
class WeightedSource:
    """A source of a reward under its name in the metrics; `usage` reports its counters.

    `is_reward_model`: its scores are normalised scores of reward models. Scores beyond ± `clip`
    are clipped in the sum, and logged unclipped.
    """

    name: str
    weight: float
    score: Scorer
    usage: Callable[[], Mapping[str, int]] | None = None
    is_reward_model: bool = False
    clip: float | None = None

    def contribution(self, score: float) -> float:
        """What a score adds to the sum: its clipped value times the weight."""
        if self.clip is not None:
            score = max(-self.clip, min(self.clip, score))
        return self.weight * score


@dataclass(frozen=True, slots=True)
class RewardScores:
    """The total score of each response, and each source's score, neither weighted nor clipped."""

    total: list[float]
    by_source: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CombinedReward:
    """The weighted sum of some sources, as a Reward; `models` are those that were loaded for it."""

    sources: tuple[WeightedSource, ...]
    models: tuple[LanguageModel, ...] = ()

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]:
        return self.scores(prompts, responses, finished).total

    def scores(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
        metas: Sequence[Mapping[str, Any]] | None = None,
    ) -> RewardScores:
        """The sums and each source's scores; `metas[i]` holds the other columns of row i.

        Raises RewardError where a source gives no finite number for each response.
        """
        finished = [True] * len(responses) if finished is None else finished
        metas = [{}] * len(responses) if metas is None else metas
        rows = [
            PromptResponse(*row) for row in zip(prompts, responses, finished, metas, strict=True)
        ]
        by_source: dict[str, Sequence[float]] = {}
        for source in self.sources:
            given = source.score(rows)
            if not isinstance(given, SourceScores):
                given = SourceScores(given, {})
            by_source[source.name] = _check_scores(source, rows, given.scores)
            by_source |= {f"{source.name}.{key}": values for key, values in given.logged.items()}
        total = [
            sum(source.contribution(by_source[source.name][i]) for source in self.sources)
            for i in range(len(rows))
        ]
        return RewardScores(total, by_source)

    def usage(self) -> dict[str, Mapping[str, int]]:
        """The counters of the sources that have some, such as a judge's calls."""
        return {s.name: s.usage() for s in self.sources if s.usage is not None}


def score_responses(
    reward: Reward,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    finished: Sequence[bool] | None = None,
    metas: Sequence[Mapping[str, Any]] | None = None,
) -> RewardScores:
    """Any reward's scores, with each source's scores where it has sources."""
    if isinstance(reward, CombinedReward):
        return reward.scores(prompts, responses, finished, metas)
    return RewardScores(reward(prompts, responses, finished))


def write_usage(reward: Reward, folder: Path) -> None:
    """Write judges.json with the sources' counters, where a source has some."""
    usage = reward.usage() if isinstance(reward, CombinedReward) else {}
    if usage:
        write_json_atomic(folder / "judges.json", usage)


def source_metrics(by_source: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """`rewards/NAME/mean` and `rewards/NAME/std` of each source, as TRL logs them."""
    metrics: dict[str, float] = {}
    for name, values in by_source.items():
        if values:
            mean = sum(values) / len(values)
            metrics[f"rewards/{name}/mean"] = mean
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            metrics[f"rewards/{name}/std"] = math.sqrt(variance)
    return metrics


def _check_scores(
    source: WeightedSource, rows: Sequence[PromptResponse], values: Sequence[Any]
) -> list[float]:
    """The source's scores as floats, one for each row and each finite. Raises RewardError."""
    values = list(values)
    if len(values) != len(rows):
        raise RewardError(
            f"The reward `{source.name}` gave {len(values)} scores for {len(rows)} responses. It "
            f"must give one number for each, in their order."
        )
    scores: list[float] = []
    for row, value in zip(rows, values, strict=True):
        try:
            score = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not math.isfinite(score):
            remedy = "Make it give a number for every text, such as 0 where it can't judge."
            if source.is_reward_model:
                remedy = "Its weights are broken, or overflow on this text: try precision=fp32."
            raise RewardError(
                f"The reward `{source.name}` gave {shorten(repr(value))}, which is no finite "
                f"number, for the response {shorten(repr(row.response))} to the prompt "
                f"{shorten(repr(prompt_text(row.prompt)))}. {remedy}"
            )
        scores.append(score)
    return scores
