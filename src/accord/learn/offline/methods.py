"""The methods that learn from rows: what each reads, its head, and its objective.

A new method is a loss in `accord.objectives`, a function in a module here that turns a forward
pass into that loss, and a line in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accord.learn.loop.objective import Objective, ReferenceFactory
from accord.learn.offline.dpo import dpo, ipo
from accord.learn.offline.kto import balanced, kto
from accord.learn.offline.reference_free import orpo, simpo
from accord.learn.offline.reward import measured, reward, settled
from accord.learn.offline.sft import sft
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup


@dataclass(frozen=True, slots=True)
class Method:
    """`kind` of records it learns from; `weight` of a group in a step's mean, known beforehand.

    `objective(lm, settings, groups, reference)` builds the objective on rows `groups`; a method
    with a reference model calls `reference` for its log-probs. `settled` fills in what the
    settings leave to the training rows to decide, so that held-out rows are measured by the same;
    `measured` gives the settings of held-out rows. `margins`: whether it learns from the pairs'.
    """

    kind: Literal["sft", "preferences", "kto"]
    scalar: bool
    weight: Callable[[PromptGroup], float]
    objective: Callable[[LanguageModel, Any, Sequence[PromptGroup], ReferenceFactory], Objective]
    settled: Callable[[Any, Sequence[PromptGroup]], Any] = lambda settings, groups: settings
    measured: Callable[[Any], Any] = lambda settings: settings
    margins: bool = False


def one(group: PromptGroup) -> float:
    """Each row counts the same."""
    return 1.0


def tokens(group: PromptGroup) -> float:
    """Each token that is learned counts the same."""
    return float(group.num_targets)


def responses(group: PromptGroup) -> float:
    """Each response counts the same."""
    return float(len(group.responses))


METHODS: dict[str, Method] = {
    "sft": Method("sft", False, tokens, sft),
    "reward": Method("preferences", True, one, reward, settled, measured, margins=True),
    "dpo": Method("preferences", False, one, dpo),
    "ipo": Method("preferences", False, one, ipo),
    "kto": Method("kto", False, responses, kto, balanced),
    "orpo": Method("preferences", False, one, orpo),
    "simpo": Method("preferences", False, one, simpo),
}
