"""Rewards: prompts and responses, as text, to one score each. Higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from accord.errors import RewardError
from accord.lm.forward import response_scores
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.template import encode_prompt, encode_response
from accord.records import Prompt, prompt_text
from accord.runs import write_json_atomic

SHOWN = 60  # characters of a prompt or response in a message


class Reward(Protocol):
    """One score for each prompt and response.

    `finished[i]` is False for a response that was cut before its end: a reward that reads tokens
    must not pretend that it ended. By default all are finished.
    """

    def __call__(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]: ...


@dataclass(frozen=True, slots=True)
class PromptResponse:
    """A prompt and a response to it. `meta` is what else the prompt's row says."""

    prompt: Prompt
    response: str
    finished: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightedSource:
    """A source of a reward under the name that it is logged by; `usage` is what it counted.

    `of_model`: its scores are reward models', normalised. Beyond ± `clip` they count no more,
    though they are logged as they are.
    """

    name: str
    weight: float
    score: Callable[[Sequence[PromptResponse]], Sequence[Any]]
    usage: Callable[[], Mapping[str, int]] | None = None
    of_model: bool = False
    clip: float | None = None

    def counted(self, score: float) -> float:
        """What a score adds to the sum."""
        if self.clip is not None:
            score = max(-self.clip, min(self.clip, score))
        return self.weight * score


@dataclass(frozen=True, slots=True)
class RewardScores:
    """The score of each response, and of what it was summed: each source's own, not weighted."""

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
        """The sums with each source's part; `metas[i]` is what else the row of prompt i says.

        Raises RewardError where a source gives no finite number for each response.
        """
        finished = [True] * len(responses) if finished is None else finished
        metas = [{}] * len(responses) if metas is None else metas
        rows = [
            PromptResponse(*row) for row in zip(prompts, responses, finished, metas, strict=True)
        ]
        found = {one.name: _checked(one, rows) for one in self.sources}
        total = [
            sum(one.counted(found[one.name][i]) for one in self.sources) for i in range(len(rows))
        ]
        return RewardScores(total, found)

    def usage(self) -> dict[str, Mapping[str, int]]:
        """What the sources that count something have counted, such as a judge's calls."""
        return {one.name: one.usage() for one in self.sources if one.usage is not None}


def score_responses(
    reward: Reward,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    finished: Sequence[bool] | None = None,
    metas: Sequence[Mapping[str, Any]] | None = None,
) -> RewardScores:
    """Any reward's scores: with each source's part where it has sources."""
    if isinstance(reward, CombinedReward):
        return reward.scores(prompts, responses, finished, metas)
    return RewardScores(reward(prompts, responses, finished))


def write_usage(reward: Reward, folder: Path) -> None:
    """Write judges.json: what the sources have counted, where there are some that count."""
    told = reward.usage() if isinstance(reward, CombinedReward) else {}
    if told:
        write_json_atomic(folder / "judges.json", told)


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


def _checked(source: WeightedSource, rows: Sequence[PromptResponse]) -> list[float]:
    """The source's scores as floats, one for each row and each finite. Raises RewardError."""
    given = list(source.score(rows))
    if len(given) != len(rows):
        raise RewardError(
            f"The reward `{source.name}` gave {len(given)} scores for {len(rows)} responses. It "
            f"must give one number for each, in their order."
        )
    found: list[float] = []
    for row, value in zip(rows, given, strict=True):
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            remedy = "Make it give a number for every text, such as 0 where it can't judge."
            if source.of_model:
                remedy = "Its weights are broken, or overflow on this text: try precision=fp32."
            raise RewardError(
                f"The reward `{source.name}` gave {shorten(repr(value))}, which is no finite "
                f"number, for the response {shorten(repr(row.response))} to the prompt "
                f"{shorten(repr(prompt_text(row.prompt)))}. {remedy}"
            )
        found.append(number)
    return found


def shorten(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def model_reward(lm: LanguageModel, *, batch_size: int = 64) -> Reward:
    """A reward model's normalised scores. It reads text, so its tokenizer may be any."""

    def scores(
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
    ) -> list[float]:
        finished = [True] * len(responses) if finished is None else finished
        rows = [PromptResponse(*row) for row in zip(prompts, responses, finished, strict=True)]
        raw = read_by_length(lm, rows, response_scores, batch_size=batch_size)
        normal: list[float] = ((raw - lm.score_mean) / lm.score_std).tolist()
        return normal

    return scores


@torch.no_grad()
def read_by_length(
    lm: LanguageModel,
    rows: Sequence[PromptResponse],
    read: Callable[[LanguageModel, PackedBatch], Tensor],
    *,
    batch_size: int = 64,
) -> Tensor:
    """What `read` gives for each response (n, …), on the CPU; those of like length in one pass."""
    groups = [encode_for_reward(lm, r.prompt, r.response, r.finished) for r in rows]
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    order = sorted(range(len(groups)), key=lambda i: groups[i].num_tokens)
    found: list[Tensor] = [torch.empty(0)] * len(groups)
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        values = read(lm, pack([groups[i] for i in members], lm.device)).cpu()
        for i, value in zip(members, values, strict=True):
            found[i] = value
    return torch.stack(found) if found else torch.empty(0)


def encode_for_reward(
    lm: LanguageModel, prompt: Prompt, response: str, finished: bool = True
) -> PromptGroup:
    """A prompt and a sampled response in a model's tokens; without EOS if it was cut short.

    What is longer than the model was trained on, or has positions for, loses the prompt's start.
    Of a response that was cut before it had any text, the prompt's end is read.
    """
    ids, _ = encode_response(prompt, response, lm.tokenizer, lm.eos_ids, finished=finished)
    before = encode_prompt(prompt, lm.tokenizer)
    if lm.max_length is not None:
        ids = ids[: lm.max_length - 1]
        before = before[-min(lm.max_prompt_length or lm.max_length, lm.max_length - len(ids)) :]
    if not ids:
        before, ids = before[:-1] or before, before[-1:]
    return PromptGroup(before, (ids,), (0,))
