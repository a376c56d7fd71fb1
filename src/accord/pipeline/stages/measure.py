"""The stages that measure: the evaluation of each model's responses, and the report."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from accord.compare.dataset import load_records
from accord.compare.rewards.models import model_reward
from accord.compare.rewards.reward import Reward
from accord.compare.texts import shorten
from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError
from accord.lm.load import load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.released import return_memory
from accord.lm.tokens.template import how_to_read_dialogues
from accord.measure.evaluation import evaluation_rows, reward_model_accuracy
from accord.measure.responses import ModelResponses
from accord.pipeline.progress import Progress
from accord.pipeline.stages.contestants import check_names
from accord.pipeline.stages.divergence import contestant_kl
from accord.pipeline.stages.judges import world_reward
from accord.pipeline.stages.responses import by_row, model_responses
from accord.records import Comparison, Prompt, Ranking, Record, prompt_text
from accord.runs import write_json_atomic
from accord.settings.stages import Contestant, EvaluateSettings, ReportSettings
from accord.world.reward import true_reward

log = logging.getLogger(__name__)

Answer = tuple[str, bool]
"""A response, and whether it ended by itself."""


def evaluate(settings: EvaluateSettings) -> Iterator[Progress]:
    """Write evaluation.json: each model's rewards, KL, length, diversity and refusals."""
    check_names(settings.contestants)
    reference = load_causal(settings.reference, device=settings.device)
    reward: Reward | None = None
    if settings.reward_model is not None:
        reward_lm = load_scalar(settings.reward_model, device=settings.device)
        reward = model_reward(reward_lm)
    models = []
    total = len(settings.contestants) + (settings.comparisons is not None)
    yield Progress(0, total)
    gains = _proxy_gains(settings)
    for number, contestant in enumerate(settings.contestants, start=1):
        responses = _score_responses(contestant, reference, reward, settings)
        models.append(replace(responses, proxy_gain=gains.get(contestant.name)))
        return_memory()  # of the contestant's model
        yield Progress(number, total, contestant.name)
    accuracy = None
    if settings.comparisons is not None and reward is not None:
        dialogue_text = how_to_read_dialogues(settings.dialogue_text, reward_lm.tokenizer)
        records, read = load_records(settings.comparisons, "preferences", dialogue_text)
        log.info("%s: %s", settings.comparisons, read.summary())
        accuracy = _reward_accuracy(_texts_alone(records), reward, settings)
        yield Progress(total, total, "reward model")
    write_json_atomic(
        Path(settings.output_dir) / "evaluation.json",
        {
            "models": [row.to_json() for row in evaluation_rows(models)],
            "reward_model": accuracy,
        },
    )


def _score_responses(
    contestant: Contestant,
    reference: LanguageModel,
    reward: Reward | None,
    settings: EvaluateSettings,
) -> ModelResponses:
    rows = read_responses(contestant.responses)
    kl, kl_kind = contestant_kl(
        contestant, rows, reference, settings.reference, device=settings.device
    )
    return replace(
        model_responses(contestant.name, rows),
        true_reward=_scores_by_row(rows, world_reward) if settings.world else None,
        reward_model_score=None if reward is None else _scores_by_row(rows, reward),
        kl=kl,
        kl_kind=kl_kind,
        seconds=_training_seconds(contestant),
    )


def _proxy_gains(settings: EvaluateSettings) -> dict[str, list[float]]:
    """By contestant, for each of its prompts: how much higher the reward model that it was trained
    against scores its responses than the first contestant's responses to the same prompt."""
    gains: dict[str, list[float]] = {}
    for folder in dict.fromkeys(c.reward_model for c in settings.contestants if c.reward_model):
        reward = model_reward(load_scalar(folder, device=settings.device))
        first = next(c for c in settings.contestants if not c.ceiling)
        first_means = _mean_scores(first, reward)
        for contestant in settings.contestants:
            if contestant.reward_model != folder:
                continue
            means = _mean_scores(contestant, reward)
            missing = next((prompt for prompt in means if prompt not in first_means), None)
            if missing is not None:
                raise DataError(
                    f"{first.name} has no answer to {shorten(repr(prompt_text(missing)))}, so the "
                    f"gain of {contestant.name} over it is unknown. Sample both on one data set, "
                    f"or leave out the contestant's `reward_model`."
                )
            gains[contestant.name] = [mean - first_means[prompt] for prompt, mean in means.items()]
    return gains


def _mean_scores(contestant: Contestant, reward: Reward) -> dict[Prompt, float]:
    """The mean score of a contestant's responses to each prompt."""
    rows = read_responses(contestant.responses)
    by_prompt: dict[Prompt, list[float]] = defaultdict(list)
    for row, scores in zip(rows, _scores_by_row(rows, reward), strict=True):
        by_prompt[row.prompt] += scores
    return {prompt: sum(scores) / len(scores) for prompt, scores in by_prompt.items() if scores}


def _scores_by_row(rows: Sequence[ResponseRow], reward: Reward) -> list[list[float]]:
    """The score of each response, computed in one call."""
    scores = reward(
        [row.prompt for row in rows for _ in row.responses],
        [r.answer for row in rows for r in row.responses],
        [r.finished for row in rows for r in row.responses],
    )
    return by_row(rows, scores)


def _training_seconds(contestant: Contestant) -> float | None:
    """The duration of its training, from the stage.json of the training stage."""
    if contestant.train is None:
        return None
    stage = Path(contestant.train) / "stage.json"
    if not stage.is_file():
        return None
    seconds = json.loads(stage.read_text(encoding="utf-8")).get("seconds")
    return None if seconds is None else float(seconds)


def _texts_alone(records: Sequence[Record]) -> list[Record]:
    """The records whose responses are text alone, without tool calls, which rewards don't see."""
    usable = [
        r
        for r in records
        if not (isinstance(r, Comparison) and (r.chosen_fields or r.rejected_fields))
        and not (isinstance(r, Ranking) and r.fields)
    ]
    if len(usable) < len(records):
        left_out = len(records) - len(usable)
        log.warning("%d comparisons with tool calls in a response are left out", left_out)
    if not usable:
        raise DataError(
            "All comparisons have tool calls or thoughts in a response, and a reward model is "
            "measured on text. Give comparisons of texts."
        )
    return usable


def _reward_accuracy(
    records: Sequence[Record], reward: Reward, settings: EvaluateSettings
) -> dict[str, object]:
    """How often the reward model agrees with the verdicts, and with the true reward."""
    prompts: list[Prompt] = []
    pairs_by_prompt: list[list[tuple[Answer, Answer]]] = []
    for record in records:
        if isinstance(record, Comparison):
            prompts.append(record.prompt)
            better = (record.chosen, record.chosen_finished)
            pairs_by_prompt.append([(better, (record.rejected, record.rejected_finished))])
        elif isinstance(record, Ranking):
            ends = record.finished or (True,) * len(record.responses)
            answers = zip(record.responses, ends, strict=True)
            ranked = list(zip(record.ranks, answers, strict=True))
            prompts.append(record.prompt)
            pairs_by_prompt.append([(x, y) for i, x in ranked for j, y in ranked if i < j])
    flat = [
        (prompt, *answer)
        for prompt, pairs in zip(prompts, pairs_by_prompt, strict=True)
        for pair in pairs
        for answer in pair
    ]
    values = iter(reward([p for p, _, _ in flat], [t for _, t, _ in flat], [f for *_, f in flat]))
    margins = [[next(values) - next(values) for _ in pairs] for pairs in pairs_by_prompt]
    gaps = None
    if settings.world:
        gaps = [
            [true_reward(prompt, x) - true_reward(prompt, y) for (x, _), (y, _) in pairs]
            for prompt, pairs in zip(prompts, pairs_by_prompt, strict=True)
        ]
    return reward_model_accuracy(margins, true_gaps_by_prompt=gaps, clear_gap=settings.clear_gap)


def report(settings: ReportSettings) -> Iterator[Progress]:
    """Write report.html and results.json."""
    from accord.report.page import write_report  # matplotlib takes a second to import

    yield Progress(0, 1)
    write_report(settings)
    yield Progress(1, 1)
