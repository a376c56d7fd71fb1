"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from accord.learn.loop.objective import Losses, Metric, Objective, ReferenceFactory, metric
from accord.lm.forward import states_before
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup
from accord.objectives.logprobs import token_logps, token_logps_and_statistics
from accord.settings.training import SftSettings


def sft(
    lm: LanguageModel,
    settings: SftSettings,
    groups: Sequence[PromptGroup],
    reference: ReferenceFactory,
) -> Objective:
    """Cross-entropy of each response token."""

    def losses(batch: PackedBatch, rows: Sequence[int], *, log: bool) -> Losses:
        hidden = states_before(lm, batch)
        metrics: dict[str, Metric] = {}
        if log:
            logps, entropy, correct = token_logps_and_statistics(hidden, lm.head, batch.targets)
            metrics["entropy"] = metric(entropy)
            metrics["mean_token_accuracy"] = metric(correct)
        else:
            logps = token_logps(hidden, lm.head, batch.targets)
        return Losses(-logps, logps.new_ones(len(logps)), metrics)

    return Objective(losses)
