"""The stage `curve`: one set of responses, scored by the reward and by an independent measure, and
what best-of-N makes of them for each N.

Its folder holds `responses/`, a stage `sample` that is skipped when finished and resumed when
interrupted; scores.jsonl, so that nothing is scored twice; and curve.json.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import CombinedReward
from accord.compare.texts import shorten
from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError, RewardError
from accord.measure.best_of_n import MIN_PROMPTS, best_of_n_curve
from accord.pipeline.identity import read_stage
from accord.pipeline.probe.log import ScoreLog, sources_identity
from accord.pipeline.progress import Progress, StartStage
from accord.pipeline.stages.judges import flawed_reward
from accord.pipeline.stages.responses import by_row
from accord.records import prompt_json, prompt_text
from accord.runs import write_json_atomic
from accord.settings.best_of import CurveSettings
from accord.settings.recipe import StagePlan
from accord.settings.rewards import RewardSource
from accord.settings.stages import SampleSettings

FILE, SCORES, RESPONSES = "curve.json", "scores.jsonl", "responses"
log = logging.getLogger(__name__)


def curve(plan: StagePlan, start: StartStage) -> Iterator[Progress]:
    """Write curve.json; sample the responses first where they are not given. Raises DataError for
    responses that give no curve, and as the rewards do."""
    settings = _settings(plan)
    sampling_seconds = None
    for stage in stages_of_curve(plan):
        work = start(stage)
        if work is not None:
            yield from work
        sampling_seconds = read_stage(Path(stage.settings.output_dir)).get("seconds")  # type: ignore[attr-defined]
    rows = _read_rows(settings)
    proxy, seconds = yield from _scores(settings, settings.sources, rows)
    independent, independent_seconds = None, None
    if settings.independent is not None:
        independent, independent_seconds = yield from _scores(settings, settings.independent, rows)
    tokens = [[r.tokens for r in row.responses] for row in rows]
    known = all(count is not None for row in tokens for count in row)
    result = best_of_n_curve(
        proxy,
        independent,
        tokens if known else None,  # type: ignore[arg-type]
        confidence=settings.confidence,
    )
    responses = sum(len(row.responses) for row in rows)
    cost = {
        "sampling": None if sampling_seconds is None else sampling_seconds / responses,
        "scoring": seconds,
        "independent": independent_seconds,
    }
    content = {
        "model": rows[0].model,
        "prompts": len(rows),
        "responses": responses,
        "reward": _titles(settings.sources),
        "independent": None if settings.independent is None else _titles(settings.independent),
        "points": [{**p.to_json(), "seconds": _seconds(p.n, cost)} for p in result.points],
        "turn": None if result.turn is None else result.turn.to_json(),
        "finding": result.finding,
        "seconds_per_response": cost,
        "settings": settings.model_dump(mode="json"),
    }
    write_json_atomic(Path(settings.output_dir) / FILE, content)
    if result.turn is not None:
        log.warning("%s", result.finding)


def stages_of_curve(plan: StagePlan) -> list[StagePlan]:
    """The stage that samples the responses; none where they are given."""
    settings = _settings(plan)
    if settings.responses is not None:
        return []
    assert settings.model is not None
    assert settings.dataset is not None
    same = (
        *("model", "dataset", "dialogue_text", "num_responses", "max_new_tokens", "temperature"),
        *("top_p", "top_k", "min_p", "stop", "sampler", "max_prompts", "precision", "seed"),
        *("device", "trust_remote_code"),
    )
    sampling = SampleSettings(
        **{key: getattr(settings, key) for key in same},
        batch_size=settings.sampling_batch_size,
        output_dir=str(Path(settings.output_dir) / RESPONSES),
    )
    return [StagePlan(f"{plan.name}-responses", "sample", sampling)]


def read_curve(path: str | Path) -> dict[str, Any]:
    """The content of curve.json, given as the file or as its folder. Raises DataError where it is
    none."""
    path = Path(path)
    file = path / FILE if path.is_dir() else path
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        content["points"][0]["n"], content["turn"], content["finding"]
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(
            f"{file} is no curve of best-of-N ({type(error).__name__}: {error}). Give the "
            f"curve.json that `accord best-of curve` writes, or its folder."
        ) from error
    return content


def curve_table(plan: StagePlan) -> Table:
    """The curve as a table for the terminal, a row for each N."""
    return table_of(read_curve(_settings(plan).output_dir))


def table_of(content: dict[str, Any]) -> Table:
    """A curve.json as a table: means with their intervals."""
    columns = {
        "reward": "proxy",
        "independent": "independent",
        "length": "length",
        "tokens": "tokens",
    }
    present = {title: key for title, key in columns.items() if key in content["points"][0]}
    table = Table(title=f"best-of-N of {content['model']}, {content['prompts']:,} prompts")
    for title in ("N", "KL ≤", *present, "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in content["points"]:
        cells = [_cell(point[key], digits=key in ("length", "tokens")) for key in present.values()]
        seconds = point["seconds"]
        shown = "–" if seconds is None else f"{seconds:.3g}"
        table.add_row(str(point["n"]), f"{point['kl']:.2f}", *cells, shown)
    return table


def _cell(value: dict[str, float | None] | None, *, digits: bool) -> str:
    if value is None or value["mean"] is None:
        return "–"
    if digits:
        return f"{value['mean']:,.0f}"
    if value["low"] is None or value["high"] is None:
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} ±{(value['high'] - value['low']) / 2:.3f}"


def _read_rows(settings: CurveSettings) -> list[ResponseRow]:
    path = settings.responses or str(Path(settings.output_dir) / RESPONSES / "responses.jsonl")
    rows = read_responses(path)[: settings.max_prompts]
    fewest = min((len(row.responses) for row in rows), default=0)
    if len(rows) < MIN_PROMPTS or fewest < 2:
        raise DataError(
            f"{path} has {len(rows):,} prompts with at least {fewest} responses each. A curve of "
            f"best-of-N needs {MIN_PROMPTS} prompts and 2 responses to each; sample with "
            f"num_responses=64 for N up to 64."
        )
    return rows


def _scores(
    settings: CurveSettings, sources: Sequence[RewardSource], rows: Sequence[ResponseRow]
) -> Generator[Progress, None, tuple[list[list[float]], float | None]]:
    """The score of each response, and the seconds that one took, None where all were logged.

    Raises RewardError where a response has no score.
    """
    identity = sources_identity(sources, settings.precision)
    score_log = ScoreLog(Path(settings.output_dir) / SCORES, identity)
    flat = [(row, response) for row in rows for response in row.responses]
    keys = [
        score_log.key(prompt_json(row.prompt), r.text, r.finished, dict(row.meta), r.opened)
        for row, r in flat
    ]
    question = dict(zip(keys, flat, strict=True))
    missing = score_log.missing(keys)
    seconds = None
    if missing:
        reward = build_reward(
            sources,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            world=flawed_reward,
        )
        reward.check_rows([row.prompt for row in rows], [row.meta for row in rows])
        started = time.perf_counter()
        for first in range(0, len(missing), settings.batch_size):
            yield Progress(len(question) - len(missing) + first, len(question), _titles(sources))
            batch = missing[first : first + settings.batch_size]
            values = _score(reward, [question[key] for key in batch])
            score_log.add({k: (v,) for k, v in zip(batch, values, strict=True)})
        seconds = (time.perf_counter() - started) / len(missing)
        yield Progress(len(question), len(question), _titles(sources))
    return by_row(rows, [score_log.values[key][0] for key in keys]), seconds


def _score(reward: CombinedReward, batch: Sequence[tuple[ResponseRow, Any]]) -> list[float]:
    totals = reward.scores(
        [row.prompt for row, _ in batch],
        [r.text for _, r in batch],
        [r.finished for _, r in batch],
        [row.meta for row, _ in batch],
        opened=[r.opened for _, r in batch],
    ).total
    missing = next((i for i, total in enumerate(totals) if math.isnan(total)), None)
    if missing is not None:
        prompt = shorten(repr(prompt_text(batch[missing][0].prompt)))
        raise RewardError(
            f"{reward.sources[0].name} gives no score to a response to {prompt}, so what it would "
            "choose is unknown. Leave the prompt out, or give a reward that applies to all."
        )
    return totals


def _seconds(n: int, cost: dict[str, float | None]) -> float | None:
    """What n responses take to sample and to score, at the batch size of this run."""
    sampling, scoring = cost["sampling"], cost["scoring"]
    return None if sampling is None or scoring is None else n * (sampling + scoring)


def _titles(sources: Sequence[RewardSource]) -> str:
    return " + ".join(source.title for source in sources if source.weight)


def _settings(plan: StagePlan) -> CurveSettings:
    assert isinstance(plan.settings, CurveSettings)
    return plan.settings
