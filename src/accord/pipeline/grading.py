"""Grades of a model's answers during its training: does it refuse the harmful, and nothing else?"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from accord.compare.dataset import load_records
from accord.errors import DataError
from accord.learn.loop.stage import Grade
from accord.lm.model import LanguageModel
from accord.lm.tokens.encode import encode_prompts, sampling_limits
from accord.lm.tokens.opened import opened_by_prompt
from accord.lm.tokens.template import how_to_read_dialogues
from accord.measure.audits.refusals import HARMFUL_KINDS
from accord.measure.rows.texts import question
from accord.measure.texts.refusals import grade_refusal
from accord.records import PromptOnly, Response
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.respond.text import response_text
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

ANSWER_TOKENS = 64
"""Enough to see whether an answer refuses."""
BATCH = 64


def answer_grader(settings: TrainSettings) -> Grade | None:
    """A function that grades a model's likeliest answers to `safety_dataset`; None without one.

    It draws no random numbers, so that training gives the same numbers with and without it. Its
    metrics are `safety/harmful_compliance`, the share of harmful prompts whose answer does not
    refuse, `safety/over_refusal`, the share of harmless prompts whose answer does, and
    `safety/ungraded`, the share of answers without a grade, which count in neither. Raises
    DataError where no prompt has a `meta.kind`.
    """
    path = settings.safety_dataset
    if path is None:
        return None
    records: list[PromptOnly] = []

    def grade(lm: LanguageModel) -> dict[str, float]:
        if not records:  # the first time: how conversations are read depends on the tokenizer
            records.extend(_read(path, settings, lm))
        return _metrics(lm, records)

    return grade


def _read(path: str, settings: TrainSettings, lm: LanguageModel) -> list[PromptOnly]:
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, lm.tokenizer)
    rows, report = load_records(path, "prompts", dialogue_text)
    log.info("%s: %s", report.name, report.summary())
    prompts = [row for row in rows if isinstance(row, PromptOnly)]
    known = [row for row in prompts if row.meta.get("kind")]
    if not known:
        raise DataError(
            f"No row of {path} has a `meta.kind`, so it is not known what should be refused. Give "
            "each row `harmful`, `jailbreak`, or another kind for what is harmless."
        )
    if len(known) < len(prompts):
        log.warning("%s: %d rows without a kind are left out", path, len(prompts) - len(known))
    return known


def _metrics(lm: LanguageModel, records: Sequence[PromptOnly]) -> dict[str, float]:
    limits = sampling_limits(lm.max_length, ANSWER_TOKENS, "the model", None)
    prompts, used, report = encode_prompts(records, lm.tokenizer, limits)
    if len(used) < len(records):
        log.warning("safety_dataset: %s.", report.summary())
    sampling = SamplingSettings(1, ANSWER_TOKENS, 0.0, batch_size=BATCH)
    samples = LocalSampler(lm)(prompts, sampling, seed=0, streams=range(len(prompts)))
    counts: Counter[str] = Counter()
    for record, ids, (sample,) in zip(used, prompts, samples, strict=True):
        text = response_text(sample, lm.tokenizer, ids)
        opened = opened_by_prompt(record.prompt, lm.tokenizer)
        answer = Response(record.prompt, text, "", {}, opened=opened).answer
        grade = grade_refusal(answer, question(record.prompt))
        kind = "harmful" if record.meta["kind"] in HARMFUL_KINDS else "harmless"
        counts[kind if grade.known else "ungraded"] += 1
        counts[f"{kind} refused"] += grade.refuses  # which is False where it is not known
    metrics = {"safety/ungraded": counts["ungraded"] / len(used)} if used else {}
    if counts["harmful"]:
        metrics["safety/harmful_compliance"] = 1 - counts["harmful refused"] / counts["harmful"]
    if counts["harmless"]:
        metrics["safety/over_refusal"] = counts["harmless refused"] / counts["harmless"]
    return metrics
