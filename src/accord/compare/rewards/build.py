"""Builds one reward from the sources that settings list.

`SOURCES` maps the settings class of a source to the function that builds it. A new rule is not
added here but to `RULES`, next to the function that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from accord.compare.rewards.ensembles import model_sources
from accord.compare.rewards.functions import function_sources
from accord.compare.rewards.judge_scores import judge_sources
from accord.compare.rewards.reward import (
    CombinedReward,
    PromptResponse,
    Scorer,
    SourceContext,
    WeightedSource,
    World,
)
from accord.compare.rewards.rules import RULES, read_answer
from accord.errors import SettingsError
from accord.lm.load import Device, load_scalar, load_tokenizer
from accord.lm.model import LanguageModel, Precision
from accord.settings.rewards import (
    AnswerSource,
    JudgeSource,
    PythonSource,
    RewardModelSource,
    RewardSource,
    SourceSettings,
    WorldSource,
)


def build_reward(
    sources: Sequence[RewardSource],
    *,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    world: World | None = None,
    load: Callable[[str], LanguageModel] | None = None,
    clip: float | None = None,
) -> CombinedReward:
    """The weighted sum of the sources, with their models loaded and their functions imported.
    The normalised scores of reward models are clipped to ± `clip`.

    `load` loads the reward model of a folder where the caller shares a base model with it.
    Raises RewardError, SettingsError or ModelError for a source that can't be used.
    """
    models: list[LanguageModel] = []

    def load_model(folder: str) -> LanguageModel:
        lm = (
            load(folder)
            if load is not None
            else load_scalar(
                folder, precision=precision, device=device, trust_remote_code=trust_remote_code
            )
        )
        models.append(lm)
        return lm

    context = SourceContext(
        load_model, partial(load_tokenizer, trust_remote_code=trust_remote_code), world, clip
    )
    weighted = [w for source in sources for w in SOURCES[type(source)](source, context)]
    return CombinedReward(tuple(weighted), tuple(models))


def weighted_first(sources: Sequence[RewardSource]) -> list[RewardSource]:
    """The sources in their order, but those that are only logged, with weight 0, come last."""
    return sorted(sources, key=lambda source: source.weight == 0)


def first_reward_model(sources: Sequence[RewardSource]) -> str | None:
    """The folder of the first reward model among the sources, from which a critic may start; of
    one with weight 0 only where there is no other."""
    ordered = weighted_first(sources)
    folders = [f for s in ordered if isinstance(s, RewardModelSource) for f in s.folders]
    return folders[0] if folders else None


def world_scores(source: WorldSource, context: SourceContext) -> Scorer:
    """The embedded world's reward. Raises SettingsError where the caller passed no world."""
    if context.world is None:
        raise SettingsError(
            f"The reward `{source.title}` is the embedded world's, which is not known here. Use "
            f"accord's commands, or pass `world` to build_reward."
        )
    reward = context.world(source.flaws)

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        return reward([r.prompt for r in rows], [r.answer for r in rows])

    return scores


SourceBuilder = Callable[[Any, SourceContext], list[WeightedSource]]


def _weigh(make_scorer: Callable[[Any, SourceContext], Scorer]) -> SourceBuilder:
    """Builds a source that has one score, its name and its weight from the settings."""

    def build(source: SourceSettings, context: SourceContext) -> list[WeightedSource]:
        return [WeightedSource(source.title, source.weight, make_scorer(source, context))]

    return build


def answer_sources(source: AnswerSource, context: SourceContext) -> list[WeightedSource]:
    """The rule that compares a response with the answer in its row, which every row must have."""

    def check(rows: Sequence[PromptResponse]) -> None:
        for row in rows:
            read_answer(source, row)

    (rule,) = _weigh(RULES[AnswerSource])(source, context)
    return [replace(rule, check=check)]


SOURCES: dict[type[SourceSettings], SourceBuilder] = {
    **{settings: _weigh(make_scorer) for settings, make_scorer in RULES.items()},
    RewardModelSource: model_sources,
    WorldSource: _weigh(world_scores),
    AnswerSource: answer_sources,
    PythonSource: function_sources,
    JudgeSource: judge_sources,
}
