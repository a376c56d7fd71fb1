"""What training broke: every audit that the settings ask for, one model in memory at a time."""

from __future__ import annotations

from accord.lm.load import load_causal
from accord.measure.audits.audit import Audit
from accord.pipeline.audits.held_out import HeldOutLosses, held_out_losses, held_out_result
from accord.pipeline.audits.questions import QuestionScores, question_scores, questions_result
from accord.pipeline.audits.tasks import task_audits
from accord.settings.audit import AuditSettings

Results = tuple[list[Audit], list[str]]


def broken_audits(settings: AuditSettings) -> Results:
    """The audits of tasks, held-out loss and questions, and notes on rows that are left out."""
    results = list(task_audits(settings))
    losses: list[HeldOutLosses] = []
    scores: list[QuestionScores] = []
    if settings.held_out is not None or settings.questions is not None:
        for folder in (settings.before, settings.model):
            assert folder is not None
            lm = load_causal(folder, device=settings.device)
            if settings.held_out is not None:
                losses.append(held_out_losses(lm, settings.held_out, settings))
            if settings.questions is not None:
                scores.append(question_scores(lm, settings.questions, settings))
            del lm  # before the next one is loaded
    if losses:
        results.append(held_out_result(losses[0], losses[1], settings))
    if scores:
        results.append(questions_result(scores[0], scores[1], settings))
    return [audit for audit, _ in results], [note for _, notes in results for note in notes]
