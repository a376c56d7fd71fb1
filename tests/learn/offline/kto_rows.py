"""Labelled rows, KTO's objective on them, and what it computes before a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from accord.learn.loop.objective import Objective
from accord.learn.loop.processes import Processes
from accord.learn.offline.kto import kto
from accord.learn.offline.mismatched import append_mismatched, log_probs_and_mismatched_ratios
from accord.learn.offline.reference import stored_log_probs
from accord.learn.offline.reference_cache import compute_log_probs
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.settings.preferences import KtoSettings
from tests.learn.toys.fit import reference_factory
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups


def labelled_rows(*labels: bool, seed: int = 0) -> list[PromptGroup]:
    """Rows of one response each, all with different prompts."""
    shapes = [(3 + i % 4, (2 + 3 * i % 7,)) for i in range(len(labels))]
    rows = random_groups(shapes, VOCABULARY, seed)
    return [replace(row, labels=(label,)) for row, label in zip(rows, labels, strict=True)]


def kto_objective(
    settings: KtoSettings,
    groups: Sequence[PromptGroup],
    lm: LanguageModel,
    reference: LanguageModel,
) -> Objective:
    return kto(lm, settings, groups, reference_factory(reference))


def log_probs_and_ratios(
    groups: list[PromptGroup],
    mismatched: list[PromptGroup],
    lm: LanguageModel,
    reference: LanguageModel,
    rows: list[int],
    settings: KtoSettings,
    procs: Any = Processes(),  # noqa: B008 - frozen
) -> tuple[dict[int, Tensor], Tensor]:
    """`log_probs_and_mismatched_ratios` with the log-probs of a reference model."""
    appended = append_mismatched(groups, mismatched)
    ref_logps = stored_log_probs(compute_log_probs(reference, appended, batch_size=4))
    return log_probs_and_mismatched_ratios(
        lm, appended, mismatched, ref_logps, rows, settings, procs
    )
