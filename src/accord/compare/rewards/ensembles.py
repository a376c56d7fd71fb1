"""Several reward models, or several heads of one, that score together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accord.compare.rewards.reward import PromptResponse, model_reward, read_by_length
from accord.errors import SettingsError
from accord.lm.forward import response_head_scores
from accord.lm.model import LanguageModel
from accord.objectives.reward import mean_minus_variance, worst_score
from accord.settings.rewards import RewardModelSource


def ensemble_scores(
    source: RewardModelSource, lms: Sequence[LanguageModel]
) -> Callable[[Sequence[PromptResponse]], list[float]]:
    """What the models of a source give a response together; `lms` are its folders, loaded.

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
    combined: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda members: members.mean(-1),
        "mean_minus_variance": lambda members: mean_minus_variance(
            members, penalty=source.variance_penalty
        ),
        "worst": worst_score,
    }
    combine = combined[source.combine]

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        found: list[float] = combine(torch.cat([_members(lm, rows) for lm in lms], -1)).tolist()
        return found

    return scores


def _mean_of_models(
    lms: Sequence[LanguageModel],
) -> Callable[[Sequence[PromptResponse]], list[float]]:
    """Each model's own score, averaged."""
    rewards = [model_reward(lm) for lm in lms]

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        columns = [
            reward([r.prompt for r in rows], [r.response for r in rows], [r.finished for r in rows])
            for reward in rewards
        ]
        return [sum(own) / len(columns) for own in zip(*columns, strict=True)]

    return scores


def _members(lm: LanguageModel, rows: Sequence[PromptResponse]) -> Tensor:
    """Each head's score (n, heads), of mean 0 on the model's reference responses, in the unit of
    the model's own normalised score."""
    raw = read_by_length(lm, rows, response_head_scores).reshape(len(rows), lm.heads)
    means = lm.head_means or (lm.score_mean,) * lm.heads
    return (raw - raw.new_tensor(means)) / lm.score_std
