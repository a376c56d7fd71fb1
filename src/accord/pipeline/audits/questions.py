"""Capabilities as yes/no questions: the log-probs of both answers, without sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from accord.data.checks import RowError
from accord.errors import DataError, ModelError
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import FORWARD_TOKENS, PromptGroup, forward_batches, pack
from accord.lm.tokens.answers import encode_answers
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.template import how_to_read_dialogues
from accord.measure.audits.audit import Audit
from accord.measure.audits.yes_no import QUESTIONS, YesNoScores, questions_audit
from accord.pipeline.audits.answered import AnsweredRows, read_answered
from accord.records import Prompt, Source, prompt_text
from accord.runs.activity import with_activity
from accord.settings.audit import AuditSettings

BATCH = 32
FORMS = (("Yes", "yes"), ("No", "no"))
WORDS = {"yes": True, "no": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """The log-probs of yes and no of the questions that a model could read, by their place."""

    rows: AnsweredRows[bool]
    scores: dict[Source, tuple[float, float]]
    notes: tuple[str, ...]


def question_scores(lm: LanguageModel, dataset: str, settings: AuditSettings) -> QuestionScores:
    """Both answers' log-probs after each question: each the sum over its tokens, with both
    capitalisations added up, and without the EOS.

    Raises DataError where no question can be used, ModelError where the tokenizer writes yes and
    no as the same tokens, or the model gives no finite log-prob.
    """
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, lm.tokenizer)
    rows = read_answered(dataset, "answer", _parse_answer, dialogue_text)
    limit = min(lm.max_positions or FORWARD_TOKENS, FORWARD_TOKENS)
    groups: list[PromptGroup] = []
    used: list[Source] = []
    faults: dict[str, int] = {}
    for record in rows.prompts:
        try:
            group = _encode(lm, record.prompt, record.source)
            if len(group.prompt) + max(map(len, group.responses)) > limit:
                raise UnusableRow(f"over {limit:,} tokens")
        except UnusableRow as reason:
            faults[str(reason)] = faults.get(str(reason), 0) + 1
            continue
        groups.append(group)
        used.append(record.source)
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in faults.items())
    if not groups:
        raise DataError(
            f"None of the questions of {dataset} can be read by {lm.name}: {reasons}. Give others."
        )
    check_token_ids(lm, (ids for g in groups for ids in (g.prompt, *g.responses)))
    scores = dict(zip(used, yes_no_log_probs(lm, groups), strict=True))
    notes = rows.notes(QUESTIONS)
    if faults:
        notes = (*notes, f"{QUESTIONS}, read by {lm.name}: left out {reasons}.")
    return QuestionScores(rows, scores, notes)


def _parse_answer(value: Any) -> bool:
    if value is None:
        raise RowError("no value in `answer`")
    answer = WORDS.get(str(value).strip().rstrip(".").casefold())
    if answer is None:
        raise RowError("`answer` is neither yes nor no", repr(value)[:60])
    return answer


def _encode(lm: LanguageModel, prompt: Prompt, source: Source) -> PromptGroup:
    """The question with all forms of both answers; after plain text each behind a blank."""
    blank = " " if isinstance(prompt, str) and not prompt[-1:].isspace() else ""
    forms = [blank + form for word in FORMS for form in word]
    encoded = encode_answers(prompt, forms, lm.tokenizer, lm.eos_ids, finished=[False] * len(forms))
    group = PromptGroup(encoded.prompt, encoded.responses, source=source)
    if not all(group.responses) or set(group.responses[:2]) & set(group.responses[2:]):
        raise ModelError(
            f"The tokenizer of {lm.name} writes yes and no as the same tokens, so they can't be "
            "distinguished. Leave `questions` out for it."
        )
    return group


@torch.no_grad()
def yes_no_log_probs(lm: LanguageModel, groups: Sequence[PromptGroup]) -> list[tuple[float, float]]:
    """log p(yes) and log p(no) after each prompt, each the log-sum-exp over its written forms,
    where forms with the same tokens count once."""
    scores: list[tuple[float, float]] = []
    batches = list(forward_batches([g.num_tokens for g in groups], BATCH))
    for indices in with_activity(batches, "questions, batch", len(batches)):
        batch = pack([groups[i] for i in indices], lm.device)
        sums = batch.per_response(response_logps(lm, batch).double()).tolist()
        if not all(map(math.isfinite, sums)):
            raise ModelError(
                f"{lm.name} gives no finite log-prob to yes or no, so its weights are damaged, or "
                "overflow. Give another model."
            )
        for at, i in zip(range(0, len(sums), 4), indices, strict=True):
            forms = dict(zip(groups[i].responses[:2], sums[at : at + 2], strict=True))
            others = dict(zip(groups[i].responses[2:], sums[at + 2 : at + 4], strict=True))
            scores.append((_log_sum(forms.values()), _log_sum(others.values())))
    return scores


def _log_sum(logps: Any) -> float:
    return float(torch.logsumexp(torch.tensor(list(logps), dtype=torch.float64), 0))


def questions_result(
    before: QuestionScores, after: QuestionScores, settings: AuditSettings
) -> tuple[Audit, tuple[str, ...]]:
    """The audit of the questions that both models could read. Raises DataError where these are
    none."""
    answers = {p.source: a for p, a in zip(before.rows.prompts, before.rows.answers, strict=True)}
    prompts = {p.source: p.prompt for p in before.rows.prompts}
    shared = [source for source in before.scores if source in after.scores]
    if not shared:
        raise DataError(
            f"No question of {settings.questions} can be read by both models. Give others."
        )
    sides = [
        YesNoScores([side.scores[s][0] for s in shared], [side.scores[s][1] for s in shared])
        for side in (before, after)
    ]
    notes = list(dict.fromkeys((*before.notes, *after.notes)))
    left_out = len(before.scores.keys() ^ after.scores.keys())
    if left_out:
        notes.append(f"{QUESTIONS}: {left_out:,} that only one model can read are left out.")
    lineage = {"dataset": settings.questions, "before": settings.before, "after": settings.model}
    audit = questions_audit(
        [prompt_text(prompts[s]) for s in shared],
        [answers[s] for s in shared],
        *sides,
        lineage=lineage,
        limits=settings.limit_pairs,
    )
    return audit, tuple(notes)
