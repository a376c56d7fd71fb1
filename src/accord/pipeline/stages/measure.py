"""The stages that measure and tell: evaluation of each model's responses, and the report."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from accord.compare.dataset import load_records
from accord.compare.rewards.models import encode_for_reward, model_reward
from accord.compare.rewards.reward import Reward
from accord.compare.texts import shorten
from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError
from accord.learn.loop.schedule import row_batches
from accord.lm.forward import response_kl
from accord.lm.load import load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.packing import pack
from accord.measure.evaluation import Measured, evaluation_rows, reward_model_accuracy
from accord.measure.over_optimisation import best_of_n_kl
from accord.pipeline.progress import Progress
from accord.pipeline.stages.judges import world_reward
from accord.records import Comparison, Prompt, Ranking, Record, prompt_text
from accord.runs import write_json_atomic
from accord.settings.stages import Contestant, EvaluateSettings, ReportSettings
from accord.world.reward import true_reward

BATCH = 64


def evaluate(settings: EvaluateSettings) -> Iterator[Progress]:
    """Write evaluation.json: each model's rewards, KL, length, diversity and refusals."""
    reference = load_causal(settings.reference, device=settings.device)
    scores: Reward | None = None
    if settings.reward_model is not None:
        scores = model_reward(load_scalar(settings.reward_model, device=settings.device))
    measured = []
    total = len(settings.contestants) + (settings.comparisons is not None)
    yield Progress(0, total)
    gains = _proxy_gains(settings)
    for number, contestant in enumerate(settings.contestants, start=1):
        one = _measure(contestant, reference, scores, settings)
        measured.append(replace(one, proxy_gain=gains.get(contestant.name)))
        yield Progress(number, total, contestant.name)
    accuracy = None
    if settings.comparisons is not None and scores is not None:
        records, _ = load_records(settings.comparisons, "preferences")
        accuracy = _reward_accuracy(records, scores, settings)
        yield Progress(total, total, "reward model")
    write_json_atomic(
        Path(settings.output_dir) / "evaluation.json",
        {
            "models": [row.to_json() for row in evaluation_rows(measured)],
            "reward_model": accuracy,
        },
    )


def _measure(
    contestant: Contestant,
    reference: LanguageModel,
    scores: Reward | None,
    settings: EvaluateSettings,
) -> Measured:
    rows = read_responses(contestant.responses)
    kl, kl_kind = _kl(contestant, rows, reference, settings)
    return Measured(
        model=contestant.name,
        texts=[[r.text for r in row.responses] for row in rows],
        kinds=[row.meta.get("kind") for row in rows],
        finished=[[r.finished for r in row.responses] for row in rows],
        true_reward=_nested(rows, world_reward) if settings.world else None,
        reward_model_score=None if scores is None else _nested(rows, scores),
        kl=kl,
        kl_kind=kl_kind,
        seconds=_seconds(contestant),
    )


def _proxy_gains(settings: EvaluateSettings) -> dict[str, list[float]]:
    """By contestant, for each of its prompts: how much higher the reward model that it was trained
    against scores its responses than the first contestant's to the same prompt."""
    found: dict[str, list[float]] = {}
    for folder in dict.fromkeys(c.reward_model for c in settings.contestants if c.reward_model):
        reward = model_reward(load_scalar(folder, device=settings.device))
        first = next(c for c in settings.contestants if not c.ceiling)
        start = _means(first, reward)
        for contestant in settings.contestants:
            if contestant.reward_model != folder:
                continue
            own = _means(contestant, reward)
            missing = next((prompt for prompt in own if prompt not in start), None)
            if missing is not None:
                raise DataError(
                    f"{first.name} has no answer to {shorten(repr(prompt_text(missing)))}, so what "
                    f"{contestant.name} gained over it can't be told. Sample both on one data set, "
                    f"or leave out the contestant's `reward_model`."
                )
            found[contestant.name] = [mean - start[prompt] for prompt, mean in own.items()]
    return found


def _means(contestant: Contestant, reward: Reward) -> dict[Prompt, float]:
    """The mean score of a contestant's responses to each prompt."""
    rows = read_responses(contestant.responses)
    found: dict[Prompt, list[float]] = defaultdict(list)
    for row, scores in zip(rows, _nested(rows, reward), strict=True):
        found[row.prompt] += scores
    return {prompt: sum(scores) / len(scores) for prompt, scores in found.items() if scores}


def _nested(rows: Sequence[ResponseRow], reward: Reward) -> list[list[float]]:
    flat = reward(
        [row.prompt for row in rows for _ in row.responses],
        [r.text for row in rows for r in row.responses],
        [r.finished for row in rows for r in row.responses],
    )
    values = iter(flat)
    return [[next(values) for _ in row.responses] for row in rows]


def _kl(
    contestant: Contestant,
    rows: Sequence[ResponseRow],
    reference: LanguageModel,
    settings: EvaluateSettings,
) -> tuple[list[list[float]] | float | None, str]:
    if contestant.best_of is not None:
        return best_of_n_kl(contestant.best_of), "closed form, an upper bound where answers tie"
    if contestant.model is None:
        return None, "not measured"
    if Path(contestant.model).resolve() == Path(settings.reference).resolve():
        return 0.0, "the reference itself"
    lm = load_causal(contestant.model, device=settings.device)
    groups = [
        encode_for_reward(lm, r.prompt, r.text, r.finished) for row in rows for r in row.responses
    ]
    found: list[float] = []
    for part in row_batches([g.num_tokens for g in groups], BATCH):
        batch = pack([groups[i] for i in part], lm.device)
        found += response_kl(lm, reference, batch).tolist()
    values = iter(found)
    nested = [[next(values) for _ in row.responses] for row in rows]
    return nested, "exact at each token, summed along the sampled text"


def _seconds(contestant: Contestant) -> float | None:
    """The time its training took, as its stage wrote it down."""
    if contestant.train is None:
        return None
    stage = Path(contestant.train) / "stage.json"
    if not stage.is_file():
        return None
    seconds = json.loads(stage.read_text(encoding="utf-8")).get("seconds")
    return None if seconds is None else float(seconds)


def _reward_accuracy(
    records: Sequence[Record], scores: Reward, settings: EvaluateSettings
) -> dict[str, object]:
    """How often the reward model agrees: with the verdicts, and with the true reward."""
    prompts: list[Prompt] = []
    pairs: list[list[tuple[str, str]]] = []
    for record in records:
        if isinstance(record, Comparison):
            prompts.append(record.prompt)
            pairs.append([(record.chosen, record.rejected)])
        elif isinstance(record, Ranking):
            own = list(zip(record.ranks, record.responses, strict=True))
            prompts.append(record.prompt)
            pairs.append([(x, y) for i, x in own for j, y in own if i < j])
    flat = [
        (p, text) for p, own in zip(prompts, pairs, strict=True) for pair in own for text in pair
    ]
    values = iter(scores([p for p, _ in flat], [t for _, t in flat]))
    margins = [[next(values) - next(values) for _ in own] for own in pairs]
    gaps = None
    if settings.world:
        gaps = [
            [true_reward(p, x) - true_reward(p, y) for x, y in own]
            for p, own in zip(prompts, pairs, strict=True)
        ]
    return reward_model_accuracy(margins, true_gaps_by_prompt=gaps, clear_gap=settings.clear_gap)


def report(settings: ReportSettings) -> Iterator[Progress]:
    """Write report.html and results.json."""
    from accord.report.page import write_report  # matplotlib takes a second to import

    yield Progress(0, 1)
    write_report(settings)
    yield Progress(1, 1)
