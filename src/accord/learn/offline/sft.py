"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from accord.learn.loop.objective import Losses, Metric, Objective, ReferenceFactory, metric
from accord.lm.forward import response_stats
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.settings.training import SftSettings


def sft(
    lm: LanguageModel,
    settings: SftSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """Cross-entropy of each response token."""

    def losses(batch: PackedBatch, rows: Sequence[int], context: None, *, log: bool) -> Losses:
        stats = response_stats(lm, batch, want={"entropy", "correct"} if log else ())
        metrics: dict[str, Metric] = {}
        if stats.entropy is not None and stats.correct is not None:
            metrics["entropy"] = metric(stats.entropy)
            metrics["mean_token_accuracy"] = metric(stats.correct)
        return Losses(-stats.logps, stats.logps.new_ones(len(stats.logps)), metrics)

    return Objective(losses)
