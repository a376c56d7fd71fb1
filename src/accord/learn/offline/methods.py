"""The offline methods: what each reads, its head, and its objective.

A new method is a loss in `accord.objectives`, a function in a module here that applies it to a
forward pass, and a row in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from accord.learn.loop.objective import Objective, ReferenceFactory
from accord.learn.offline.dpo import dpo, ipo
from accord.learn.offline.kto import balance_weights, kto
from accord.learn.offline.reference_free import orpo, simpo
from accord.learn.offline.reward import eval_settings, fit_settings, reward
from accord.learn.offline.sft import sft
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.settings.training import TrainSettings

S = TypeVar("S", bound=TrainSettings)


@dataclass(frozen=True, slots=True)
class Method(Generic[S]):
    """How an offline method trains.

    `kind` of records it reads; `weight` of a group in a step's mean, known before the forward
    pass. `objective(lm, settings, groups, reference)` builds the objective on rows `groups`; a
    method with a reference model calls `reference(groups)` for its log-probs. `fit_settings` fills
    in settings that depend on the training rows; `eval_settings` gives those of held-out rows.
    `uses_margins`: whether the pairs' margins enter the loss.
    """

    kind: Literal["sft", "preferences", "kto"]
    scalar: bool
    weight: Callable[[PromptGroup], float]
    objective: Callable[[LanguageModel, S, Sequence[PromptGroup], ReferenceFactory], Objective]
    fit_settings: Callable[[S, Sequence[PromptGroup]], S] = lambda settings, groups: settings
    eval_settings: Callable[[S], S] = lambda settings: settings
    uses_margins: bool = False


def per_row(group: PromptGroup) -> float:
    """Each row counts the same."""
    return 1.0


def per_token(group: PromptGroup) -> float:
    """Each trained token counts the same."""
    return float(group.num_targets)


def per_response(group: PromptGroup) -> float:
    """Each response counts the same."""
    return float(len(group.responses))


METHODS: dict[str, Method[Any]] = {
    "sft": Method("sft", False, per_token, sft),
    "reward": Method(
        "preferences", True, per_row, reward, fit_settings, eval_settings, uses_margins=True
    ),
    "dpo": Method("preferences", False, per_row, dpo),
    "ipo": Method("preferences", False, per_row, ipo),
    "kto": Method("kto", False, per_response, kto, balance_weights),
    "orpo": Method("preferences", False, per_row, orpo),
    "simpo": Method("preferences", False, per_row, simpo),
}
