"""How far a policy's answers lie from those that a reward model was trained on."""

from __future__ import annotations

import random
from collections.abc import Collection, Generator, Sequence

import numpy as np

from accord.compare.dataset import load_records
from accord.compare.rewards.models import compute_by_length
from accord.compare.rewards.reward import PromptResponse
from accord.data.columns import DialogueText
from accord.data.write import read_responses
from accord.errors import DataError
from accord.lm.forward import states_last
from accord.lm.model import LanguageModel
from accord.measure.audits.audit import Audit
from accord.measure.audits.probes_distance import (
    LEAST,
    Floats,
    distance_audit,
    fit_spread,
)
from accord.pipeline.progress import Progress
from accord.records import Comparison, Prompt, prompt_text
from accord.settings.probe import ProbeSettings

LEFT_OUT = 5  # one prompt in so many measures the quantiles


def measure_distance(
    settings: ProbeSettings,
    lm: LanguageModel,
    dialogue_text: DialogueText,
    probed: Collection[Prompt],
) -> Generator[Progress, None, tuple[Audit, int]]:
    """The audit of the responses' distance, in the last hidden states of a reward model; and how
    many of the `probed` prompts are among those of the training answers.

    The training answers of four prompts in five fit the mean and the covariance, those of the
    others measure the quantiles. Raises DataError where they are too few, or none can be read.
    """
    assert settings.training is not None
    assert settings.responses is not None
    rows = _training_rows(settings, dialogue_text)
    shared = len(set(probed).intersection(row.prompt for row in rows))
    fitted, left_out = _split_rows(settings, rows)
    responses, unended = _policy_rows(settings.responses)
    total = len(fitted) + len(left_out) + len(responses)
    done = 0
    states = []
    for part in (fitted, left_out, responses):
        of_rows = []
        for start in range(0, len(part), settings.batch_size):
            batch = part[start : start + settings.batch_size]
            of_rows.append(compute_by_length(lm, batch, states_last).double().numpy())
            done += len(batch)
            yield Progress(done, total, "hidden states")
        states.append(np.concatenate(of_rows))
    spread = fit_spread(states[0])
    audit = distance_audit(
        spread,
        spread.distances(states[1]),
        _distances(spread.distances(states[2])),
        [prompt_text(row.prompt) for row in responses],
        [row.answer for row in responses],
        fitted=len(fitted),
        confidence=settings.confidence,
        details={"reward_model": lm.name, "reasoning_never_ends": unended},
    )
    return audit, shared


def _distances(distances: Floats) -> Floats:
    """The distances. Raises DataError where one is not finite: the model overflows on a text."""
    if not np.isfinite(distances).all():
        raise DataError(
            "A response has hidden states that are not finite, so it has no distance. Try "
            "precision=fp32."
        )
    return distances


def _training_rows(settings: ProbeSettings, dialogue_text: DialogueText) -> list[PromptResponse]:
    assert settings.training is not None
    records, _ = load_records(settings.training, "comparisons", dialogue_text)
    return [
        PromptResponse(record.prompt, response, finished)
        for record in records
        if isinstance(record, Comparison)
        for response, finished in (
            (record.chosen, record.chosen_finished),
            (record.rejected, record.rejected_finished),
        )
    ]


def _split_rows(
    settings: ProbeSettings, rows: Sequence[PromptResponse]
) -> tuple[list[PromptResponse], list[PromptResponse]]:
    """The training answers that fit, and those that are left out, by prompt."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    random.Random(f"distance {settings.seed}").shuffle(prompts)
    rank = {prompt: i for i, prompt in enumerate(prompts)}
    rows = sorted(rows, key=lambda row: rank[row.prompt])[: settings.training_answers]
    fitted = [row for row in rows if rank[row.prompt] % LEFT_OUT]
    left_out = [row for row in rows if rank[row.prompt] % LEFT_OUT == 0]
    if min(len(fitted), len(left_out)) < LEAST:
        raise DataError(
            f"{settings.training} has {len(rows):,} answers to {len(prompts):,} prompts. A "
            f"distance needs {LEAST} to measure its quantiles and {LEAST} to fit, so about "
            f"{LEAST * LEFT_OUT // 2} pairs. Give more, or leave `training` and `responses` out."
        )
    return fitted, left_out


def _policy_rows(path: str) -> tuple[list[PromptResponse], int]:
    """The policy's responses that have an answer, and how many have none."""
    rows: list[PromptResponse] = []
    unended = 0
    for row in read_responses(path):
        for response in row.responses:
            if response.split().answer is None:
                unended += 1
                continue
            rows.append(
                PromptResponse(row.prompt, response.text, response.finished, opened=response.opened)
            )
    if not rows:
        raise DataError(f"{path} has no response with an answer. Give a policy's responses.jsonl.")
    return rows, unended
