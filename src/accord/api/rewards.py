"""One reward from what a caller passes: functions, models, paths, tables of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from accord.api.models import check_head
from accord.compare.rewards.build import build_reward
from accord.compare.rewards.functions import UserFunction
from accord.compare.rewards.models import model_reward
from accord.compare.rewards.reward import CombinedReward, PromptResponse, WeightedSource
from accord.errors import RewardError
from accord.lm.in_memory import wrap_model
from accord.lm.load import Device
from accord.lm.model import LanguageModel
from accord.settings.base import Settings
from accord.settings.reading.load import build
from accord.settings.rewards import Rewards, model_source

RewardLike = Any
"""A Python function, a reward model (loaded, or its path), a table of settings such as
`{"kind": "length", "at_most": 50}`, or a list of these, whose scores are added."""


class _Reward(Settings):
    """A table of settings as a caller passes it."""

    rewards: Rewards = Field(description="The reward's sources.")


def combine_rewards(
    reward: RewardLike, *, device: Device = "auto", clip: float | None = None
) -> CombinedReward:
    """The sum of the sources passed; reward models' scores are clipped to ± `clip`.

    A function is called as TRL calls reward functions, with lists named by its parameters
    (`prompts`, `responses` or `completions`, columns of the rows). Raises RewardError for what is
    none of these.
    """
    items = reward if isinstance(reward, list | tuple) else [reward]
    if not items:
        raise RewardError("The list of rewards is empty. Pass at least one.")
    parts = [_combined(item, device, clip) for item in items]
    sources = tuple(source for part in parts for source in part.sources)
    models = tuple(lm for part in parts for lm in part.models)
    return CombinedReward(_with_distinct_names(sources), models)


def _combined(item: Any, device: Device, clip: float | None) -> CombinedReward:
    if isinstance(item, CombinedReward):
        return item
    if isinstance(item, str | Path):
        return build_reward([model_source(str(item))], device=device, clip=clip)
    if isinstance(item, Mapping):
        table = build(_Reward, {"rewards": [dict(item)]}, where="reward")
        return build_reward(table.rewards, device=device, clip=clip)
    if isinstance(item, LanguageModel) or hasattr(item, "config"):
        lm = wrap_model(item)
        check_head(lm, scalar=True)
        return CombinedReward((_model_source(lm, clip),), (lm,))
    if callable(item):
        name = getattr(item, "__name__", type(item).__name__)
        name = name if name.isidentifier() else "function"
        function = UserFunction(item, name)
        return CombinedReward((WeightedSource(name, 1.0, function, check=function.check),))
    raise RewardError(
        f"{item!r} is no reward. Pass a function of prompts and responses, a reward model or its "
        f"path, or a table such as {{'kind': 'length', 'at_most': 50}}."
    )


def _model_source(lm: LanguageModel, clip: float | None) -> WeightedSource:
    scores = model_reward(lm)

    def score(rows: Sequence[PromptResponse]) -> list[float]:
        prompts, responses = [r.prompt for r in rows], [r.response for r in rows]
        return scores(prompts, responses, [r.finished for r in rows])

    return WeightedSource("reward_model", 1.0, score, is_reward_model=True, clip=clip)


def _with_distinct_names(sources: Iterable[WeightedSource]) -> tuple[WeightedSource, ...]:
    """The sources, each under a name of its own: a second `length` is `length_2`."""
    counts: dict[str, int] = {}
    named = []
    for source in sources:
        counts[source.name] = counts.get(source.name, 0) + 1
        suffix = "" if counts[source.name] == 1 else f"_{counts[source.name]}"
        named.append(replace(source, name=source.name + suffix))
    return tuple(named)
