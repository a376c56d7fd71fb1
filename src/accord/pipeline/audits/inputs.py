"""What audits are computed from: the scored responses of both models, and the curve's points."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import CombinedReward
from accord.compare.texts import shorten
from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError, RewardError
from accord.lm.load import load_causal
from accord.measure.audits.curves import CurvePoint
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.responses import Nested
from accord.pipeline.stages.divergence import contestant_kl
from accord.pipeline.stages.judges import flawed_reward
from accord.pipeline.stages.responses import by_row, model_responses
from accord.records import Prompt, prompt_text
from accord.settings.audit import AuditSettings
from accord.settings.rewards import RewardSource, model_source

log = logging.getLogger(__name__)

Members = tuple[list[Nested], list[Nested]]
"""The scores of an ensemble's members before and after: [members][prompts][responses] each."""


@dataclass(frozen=True, slots=True)
class ResponsePair:
    """The rows of both models to the prompts that both answered, in one order."""

    prompts: Sequence[Prompt]
    before: Sequence[ResponseRow]
    after: Sequence[ResponseRow]
    notes: tuple[str, ...]


def read_pair(settings: AuditSettings) -> ResponsePair:
    """The responses of both models, given or sampled. Raises DataError where they answer no prompt
    in common."""
    folder = Path(settings.output_dir)
    paths = (
        settings.before_responses or str(folder / "before" / "responses.jsonl"),
        settings.responses or str(folder / "after" / "responses.jsonl"),
    )
    before, after = (_rows_by_prompt(path) for path in paths)
    shared = [prompt for prompt in before if prompt in after]
    if not shared:
        raise DataError(
            f"{paths[0]} and {paths[1]} answer no prompt in common, so before and after can't be "
            "compared. Sample both models on one data set, with one system message."
        )
    left_out = len(before) + len(after) - 2 * len(shared)
    notes: tuple[str, ...] = ()
    if left_out:
        notes = (f"{left_out:,} prompts that only one of the two models answered are left out.",)
        log.warning("%s", notes[0])
    return ResponsePair(shared, [before[p] for p in shared], [after[p] for p in shared], notes)


def _rows_by_prompt(path: str) -> dict[Prompt, ResponseRow]:
    """The rows with a response; those of one prompt are joined."""
    joined: dict[Prompt, list[ResponseRow]] = defaultdict(list)
    for row in read_responses(path):
        if row.responses:
            joined[row.prompt].append(row)
    rows = {}
    for prompt, same in joined.items():
        responses = tuple(response for row in same for response in row.responses)
        rows[prompt] = replace(same[0], responses=responses)
    return rows


def score_pair(
    settings: AuditSettings, pair: ResponsePair
) -> tuple[BeforeAndAfter, Members | None]:
    """The input of the audits, and the scores of the ensemble's members."""
    scores: dict[str, Any] = {}
    sources = {"proxy": settings.proxy_sources, "independent": settings.independent_sources}
    for name, given in sources.items():
        if given is not None:
            reward = _reward(given, settings)
            scores[f"{name}_name"] = ", ".join(source.title for source in given)
            scores[f"{name}_before"] = _scores(reward, pair.before)
            scores[f"{name}_after"] = _scores(reward, pair.after)
    data = BeforeAndAfter(
        [prompt_text(prompt) for prompt in pair.prompts],
        model_responses(settings.before_name, pair.before),
        model_responses(settings.model_name, pair.after),
        limits=settings.limit_pairs,
        **scores,
    )
    if not settings.ensemble:
        return data, None
    members: Members = ([], [])
    for folder in settings.ensemble:
        reward = _reward([model_source(folder)], settings)
        members[0].append(_scores(reward, pair.before))
        members[1].append(_scores(reward, pair.after))
    return data, members


def _reward(sources: Sequence[RewardSource], settings: AuditSettings) -> CombinedReward:
    return build_reward(sources, device=settings.device, world=flawed_reward)


def _scores(reward: CombinedReward, rows: Sequence[ResponseRow]) -> list[list[float]]:
    """The reward's score of each response. Raises RewardError where a response has none."""
    reward.check_rows([row.prompt for row in rows], [row.meta for row in rows])
    totals = reward.scores(
        [row.prompt for row in rows for _ in row.responses],
        [r.text for row in rows for r in row.responses],
        [r.finished for row in rows for r in row.responses],
        [row.meta for row in rows for _ in row.responses],
        opened=[r.opened for row in rows for r in row.responses],
    ).total
    scores = by_row(rows, totals)
    missing = next((i for i, row in enumerate(scores) if not np.isfinite(row).all()), None)
    if missing is not None:
        prompt = shorten(repr(prompt_text(rows[missing].prompt)))
        raise RewardError(
            f"{reward.sources[0].name} gives no score to a response to {prompt}, so its gain is "
            "unknown. Leave the prompt out, or give a reward that applies to all."
        )
    return scores


def curve_points(settings: AuditSettings, prompts: Sequence[Prompt]) -> Iterator[CurvePoint]:
    """The points of `curve`, over the prompts that all of them and the audited models answered.

    Without a reward or an independent measure there is no curve.
    """
    proxy, independent = settings.proxy_sources, settings.independent_sources
    if not settings.curve or proxy is None or independent is None:
        return
    answered = {c.name: _rows_by_prompt(c.responses) for c in settings.curve}
    shared = [p for p in prompts if all(p in rows for rows in answered.values())]
    if not shared:
        raise DataError(
            "The points of `curve` answer no prompt in common with the audited models. Sample all "
            "of them on one data set."
        )
    rewards = [_reward(sources, settings) for sources in (proxy, independent)]
    reference = None
    if any(c.best_of is None for c in settings.curve):
        assert settings.before is not None
        reference = load_causal(settings.before, device=settings.device)
    for contestant in settings.curve:
        rows = [answered[contestant.name][prompt] for prompt in shared]
        kl, _ = contestant_kl(
            contestant, rows, reference, settings.before or "", device=settings.device
        )
        if kl is None:
            raise DataError(
                f"The KL of {contestant.name!r} is unknown. Give `model`, its folder, or `best_of`."
            )
        mean_kl = kl if isinstance(kl, float | int) else float(np.mean(np.concatenate(kl)))
        means = [[float(np.mean(s)) for s in _scores(reward, rows)] for reward in rewards]
        yield CurvePoint(contestant.name, mean_kl, means[0], means[1], contestant.best_of)
