"""Rewards: from prompts and responses, as text, to one score each. Higher is better."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from accord.compare.texts import shorten
from accord.errors import RewardError
from accord.lm.model import LanguageModel
from accord.reasoning import answer_of
from accord.records import Prompt, prompt_text
from accord.runs import write_json_atomic
from accord.settings.rewards import FlawSettings

log = logging.getLogger(__name__)

LARGEST_SCORE = 3.4e38  # of float32, in which advantages are computed
_WARNED: set[tuple[str, ...]] = set()


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
    """A prompt and a response to it. `meta` holds the other columns of the prompt's row, `tokens`
    the ids of the response's tokens, where they are known, and `opened` what the rendered prompt
    already wrote of the answer, such as `<think>`."""

    prompt: Prompt
    response: str
    finished: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)
    tokens: tuple[int, ...] | None = None
    opened: str = ""

    @property
    def answer(self) -> str:
        """The response behind its reasoning; empty where that never ends."""
        return answer_of(self.response, self.opened)


@dataclass(frozen=True, slots=True)
class SourceScores:
    """A source's scores, and further numbers of each response that are logged as `SOURCE.KEY`."""

    scores: Sequence[Any]
    logged: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class PendingScores:
    """Scores that are being computed beside other sources: `result` waits for them."""

    result: Callable[[], Sequence[Any]]
    cancel: Callable[[], object]


Scorer = Callable[[Sequence[PromptResponse]], Sequence[Any] | SourceScores | PendingScores]
"""Computes one number for each prompt and response, or None where the source does not apply, and
more to log where it has some."""


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
    are clipped in the sum, and logged unclipped. `check` gets the prompts' rows, with no response,
    and raises RewardError where their columns are not those that it needs.
    """

    name: str
    weight: float
    score: Scorer
    usage: Callable[[], Mapping[str, int]] | None = None
    is_reward_model: bool = False
    clip: float | None = None
    check: Callable[[Sequence[PromptResponse]], None] | None = None

    def contribution(self, score: float) -> float:
        """What a score adds to the sum: its clipped value times the weight."""
        if self.clip is not None:
            score = max(-self.clip, min(self.clip, score))
        return self.weight * score


@dataclass(frozen=True, slots=True)
class RewardScores:
    """The total score of each response, and each source's score, neither weighted nor clipped.

    NaN stands for a source that does not apply to a response, and for a total where none does.
    """

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
        tokens: Sequence[tuple[int, ...]] | None = None,
        opened: Sequence[str] | None = None,
    ) -> RewardScores:
        """The sums and each source's scores; `metas[i]` holds the other columns of row i,
        `tokens[i]` the ids of response i, and `opened[i]` what its rendered prompt already wrote
        of the answer.

        A source that does not apply to a response (None) adds nothing to its sum. Where none with
        a weight applies, the sum is NaN: such a response has no score. Raises RewardError where a
        source gives neither None nor a finite number for each response.
        """
        count = len(responses)
        finished = [True] * count if finished is None else finished
        metas = [{}] * count if metas is None else metas
        ids = [None] * count if tokens is None else tokens
        opened = [""] * count if opened is None else opened
        columns = zip(prompts, responses, finished, metas, ids, opened, strict=True)
        rows = [PromptResponse(*row) for row in columns]
        by_source: dict[str, Sequence[float]] = {}
        for source, given in zip(self.sources, self._ask_sources(rows), strict=True):
            by_source[source.name] = _check_scores(source, rows, given.scores)
            by_source |= {f"{source.name}.{key}": values for key, values in given.logged.items()}
        total = [
            self._total([by_source[source.name][i] for source in self.sources], rows[i])
            for i in range(count)
        ]
        return RewardScores(total, by_source)

    def check_rows(self, prompts: Sequence[Prompt], metas: Sequence[Mapping[str, Any]]) -> None:
        """Raise RewardError where a source needs a column that the prompts' rows do not have;
        called with all rows before the first response is sampled."""
        rows = [PromptResponse(p, "", meta=meta) for p, meta in zip(prompts, metas, strict=True)]
        for source in self.sources:
            if source.check is not None:
                source.check(rows)

    def _ask_sources(self, rows: Sequence[PromptResponse]) -> list[SourceScores]:
        """What each source gives; those that are pending are computed beside the others."""
        given: list[Sequence[Any] | SourceScores | PendingScores] = []
        try:
            for source in self.sources:
                given.append(source.score(rows))
            return [_resolve(scores) for scores in given]
        except BaseException:
            for scores in given:
                if isinstance(scores, PendingScores):
                    scores.cancel()
            raise

    def _total(self, scores: Sequence[float], row: PromptResponse) -> float:
        """The weighted sum of the scores that are none of NaN."""
        weighted = [source.weight != 0 for source in self.sources]
        applying = [not math.isnan(score) for score in scores]
        if any(weighted) and not any(w and a for w, a in zip(weighted, applying, strict=True)):
            _warn_of_no_score(tuple(source.name for source in self.sources), row)
            return math.nan
        total = sum(
            source.contribution(score)
            for source, score in zip(self.sources, scores, strict=True)
            if not math.isnan(score)
        )
        if abs(total) > LARGEST_SCORE:
            raise RewardError(
                f"The weighted sum of the rewards is {total:g} for the response "
                f"{shorten(repr(row.response))}, which float32 can't hold. Lower the weights, or "
                f"what the sources give."
            )
        return total

    def usage(self) -> dict[str, Mapping[str, int]]:
        """The counters of the sources that have some, such as a judge's calls."""
        return {s.name: s.usage() for s in self.sources if s.usage is not None}


def score_responses(
    reward: Reward,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    finished: Sequence[bool] | None = None,
    metas: Sequence[Mapping[str, Any]] | None = None,
    tokens: Sequence[tuple[int, ...]] | None = None,
    opened: Sequence[str] | None = None,
) -> RewardScores:
    """Any reward's scores, with each source's scores where it has sources."""
    if isinstance(reward, CombinedReward):
        return reward.scores(prompts, responses, finished, metas, tokens, opened)
    return RewardScores(reward(prompts, responses, finished))


def write_usage(reward: Reward, folder: Path) -> None:
    """Write judges.json with the sources' counters, where a source has some."""
    usage = reward.usage() if isinstance(reward, CombinedReward) else {}
    if usage:
        write_json_atomic(folder / "judges.json", usage)


def check_reward_rows(
    reward: Reward, prompts: Sequence[Prompt], metas: Sequence[Mapping[str, Any]]
) -> None:
    """Raise RewardError where a source of the reward needs a column that the rows do not have."""
    if isinstance(reward, CombinedReward):
        reward.check_rows(prompts, metas)


def source_metrics(by_source: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """`rewards/NAME/mean` and `rewards/NAME/std` of each source, as TRL logs them: over the
    responses to which it applies, and the standard deviation of a sample (over n − 1). With one
    such response the latter is 0, and with none both are left out."""
    metrics: dict[str, float] = {}
    for name, scores in by_source.items():
        values = [score for score in scores if not math.isnan(score)]
        if values:
            mean = sum(values) / len(values)
            metrics[f"rewards/{name}/mean"] = mean
            squares = sum((value - mean) ** 2 for value in values)
            metrics[f"rewards/{name}/std"] = math.sqrt(squares / max(1, len(values) - 1))
    return metrics


def _resolve(given: Sequence[Any] | SourceScores | PendingScores) -> SourceScores:
    scores = given.result() if isinstance(given, PendingScores) else given
    return scores if isinstance(scores, SourceScores) else SourceScores(scores, {})


def _warn_of_no_score(names: tuple[str, ...], row: PromptResponse) -> None:
    """Log for the first of a reward's responses that no source applies to it."""
    if names not in _WARNED:
        _WARNED.add(names)
        log.warning(
            "None of the rewards %s applies to a response to the prompt %s (all gave None). Such "
            "responses have no score, and no advantage in training.",
            ", ".join(names),
            shorten(repr(prompt_text(row.prompt))),
        )


def _check_scores(
    source: WeightedSource, rows: Sequence[PromptResponse], values: Sequence[Any]
) -> list[float]:
    """The source's scores as floats, one for each row: finite, or NaN for None. Raises
    RewardError."""
    values = list(values)
    if len(values) != len(rows):
        raise RewardError(
            f"The reward `{source.name}` gave {len(values)} scores for {len(rows)} responses. It "
            f"must give one number for each, in their order."
        )
    scores: list[float] = []
    for row, value in zip(rows, values, strict=True):
        if value is None:
            scores.append(math.nan)
            continue
        value = value.detach() if isinstance(value, Tensor) else value
        try:
            score = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if not abs(score) <= LARGEST_SCORE:
            remedy = "Make it give a number for every text, or None where it does not apply."
            if source.is_reward_model:
                remedy = "Its weights are broken, or overflow on this text: try precision=fp32."
            raise RewardError(
                f"The reward `{source.name}` gave {shorten(repr(value))}, which is no finite "
                f"number, for the response {shorten(repr(row.response))} to the prompt "
                f"{shorten(repr(prompt_text(row.prompt)))}. {remedy}"
            )
        scores.append(score)
    return scores
