"""Reward models as a reward source: one model, or an ensemble of models or heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accord.compare.rewards.models import compute_by_length, model_reward
from accord.compare.rewards.reward import PromptResponse, Scorer, SourceContext, WeightedSource
from accord.errors import SettingsError
from accord.lm.forward import response_head_scores
from accord.lm.model import LanguageModel
from accord.objectives.reward import mean_minus_variance, worst_score
from accord.settings.rewards import RewardModelSource


def model_sources(source: RewardModelSource, context: SourceContext) -> list[WeightedSource]:
    """The source's models, loaded. Raises ModelError or SettingsError for ones that don't fit."""
    lms = [context.load_model(folder) for folder in source.folders]
    scores = ensemble_scores(source, lms)
    return [
        WeightedSource(source.title, source.weight, scores, is_reward_model=True, clip=context.clip)
    ]


def ensemble_scores(source: RewardModelSource, lms: Sequence[LanguageModel]) -> Scorer:
    """The combined score of a source's models `lms`.

    Raises SettingsError where `combine` is given and there is one head in all.
    """
    if source.combine is None:
        return _mean_of_models(lms)
    heads = sum(lm.heads for lm in lms)
    if heads == 1:
        raise SettingsError(
            f"`combine={source.combine}` needs members that can disagree, and {source.folders[0]} "
            f"has one head. Name several folders in `model`, or train it with heads=4."
        )
    combinations: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda members: members.mean(-1),
        "mean_minus_variance": lambda members: mean_minus_variance(
            members, penalty=source.variance_penalty
        ),
        "worst": worst_score,
    }
    combine = combinations[source.combine]

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        members = torch.cat([_head_scores(lm, rows) for lm in lms], -1)
        combined: list[float] = combine(members).tolist()
        return combined

    return scores


def _mean_of_models(lms: Sequence[LanguageModel]) -> Scorer:
    """The mean of the models' normalised scores."""
    rewards = [model_reward(lm) for lm in lms]

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        columns = [
            reward([r.prompt for r in rows], [r.answer for r in rows], [r.finished for r in rows])
            for reward in rewards
        ]
        return [sum(row_scores) / len(columns) for row_scores in zip(*columns, strict=True)]

    return scores


def _head_scores(lm: LanguageModel, rows: Sequence[PromptResponse]) -> Tensor:
    """Each head's score (n, heads), of mean 0 on the model's reference responses, in the unit of
    the model's normalised score."""
    raw = compute_by_length(lm, rows, response_head_scores).reshape(len(rows), lm.heads)
    means = lm.head_means or (lm.score_mean,) * lm.heads
    return (raw - raw.new_tensor(means)) / lm.score_std
