"""An offline method's steps on rows in memory, with gradients recorded instead of applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from accord.learn.loop.fit import StepResult, fit
from accord.learn.loop.objective import ReferenceFactory
from accord.learn.loop.state import FitState, TrainState
from accord.learn.offline.methods import METHODS
from accord.learn.offline.reference import stored_log_probs
from accord.learn.offline.reference_cache import compute_log_probs
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.records import Source
from accord.settings.training import TrainSettings
from tests.learn.toys.gradients import RecordingOptimiser, recording_learner
from tests.learn.toys.models import causal_lm, lm_for_method
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups

# Eight pairs or rankings whose responses have from 1 to 13 tokens.
SHAPES = [(4, (1, 9)), (2, (13, 2)), (7, (5, 5, 3)), (1, (8, 1))]
GROUPS = [
    replace(
        group,
        source=Source("rows.jsonl", i + 1),
        labels=tuple((i + k) % 3 == 0 for k in range(len(group.responses))),
    )
    for i, group in enumerate(random_groups(SHAPES + SHAPES, VOCABULARY))
]


def reference_factory(lm: LanguageModel) -> ReferenceFactory:
    return lambda groups: stored_log_probs(compute_log_probs(lm, groups, batch_size=4))


def fit_recorded(
    name: str,
    settings: TrainSettings,
    groups: Sequence[PromptGroup] = GROUPS,
    reference: LanguageModel | None = None,
) -> tuple[list[StepResult], RecordingOptimiser]:
    """Fit METHODS[name] to the rows; the optimiser has recorded every step's gradients.

    Unless another is given, the reference has other weights than the model: not all log-ratios
    are 0.
    """
    lm, method = lm_for_method(name, getattr(settings, "heads", 1)), METHODS[name]
    learner, optimiser = recording_learner(lm)
    factory = reference_factory(reference or causal_lm(seed=5))
    objective = method.objective(lm, settings, groups, factory)
    state = TrainState({"model": learner}, FitState())
    return list(fit(state, groups, objective, method.weight, settings, lm.device)), optimiser
