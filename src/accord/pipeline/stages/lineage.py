"""rounds.json: the data and the models that each round's model comes from, and its measures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.data.write import read_responses
from accord.errors import DataError
from accord.measure.measures import rounds_keys
from accord.measure.ratings.battles import PairCounts
from accord.measure.ratings.elo import ANCHOR_RATING
from accord.measure.statistics import Interval, proportion_interval
from accord.measure.texts.diversity import distinct_n, words
from accord.runs import digest_path
from accord.settings.iterate import IterateSettings
from accord.settings.recipe import StagePlan

FILE = "rounds.json"


@dataclass(frozen=True, slots=True)
class Round:
    """One round's folder, the stages in it, and the models before and after it.

    Round 0 trains nothing: it measures the model that the others start from.
    """

    number: int
    folder: Path
    start: str
    model: str
    stages: tuple[StagePlan, ...]


def lineage(settings: IterateSettings, rounds: Sequence[Round]) -> dict[str, Any]:
    """The content of rounds.json for finished rounds, from round 0 on.

    `distinct_2` is computed over the same number of words in every round, those of the round with
    the shortest answers, because it falls as text grows.
    """
    texts_by_round = [_read_answers(round_.folder) for round_ in rounds]
    shared_words = min(sum(len(words(text)) for text in texts) for texts in texts_by_round)
    rows = []
    for round_, texts in zip(rounds, texts_by_round, strict=True):
        row = {"round": round_.number, "model": round_.model, **_parents(settings, round_)}
        row |= _measures(round_, is_rated=len(rounds) > 1)
        rows.append({**row, "distinct_2": distinct_n(texts, 2, tokens=shared_words)})
    return {
        "model": settings.model,
        "method": settings.method,
        "reference": settings.reference if settings.has_reference else None,
        "keep_data": settings.keep_data,
        "judge": settings.judge.model_dump(mode="json"),
        "seed": settings.seed,
        "distinct_2_words": shared_words,
        "rounds": rows,
    }


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """The rounds.json of a folder. Raises DataError where it can't be read."""
    try:
        content: dict[str, Any] = _read_json(Path(folder) / FILE)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{Path(folder) / FILE} can't be read: {error}. `accord iterate` writes it."
        ) from error
    return content


def _parents(settings: IterateSettings, round_: Round) -> dict[str, Any]:
    """The data and the models behind the round's model, with digests; empty for the first model."""
    if not round_.number:
        return {}
    responses, store = round_.folder / "sample/responses.jsonl", round_.folder / "compare/store.db"
    reference = settings.model if settings.reference == "fixed" else round_.start
    return {
        "start": round_.start,
        "reference": reference if settings.has_reference else None,
        "responses": str(responses),
        "verdicts": str(store),
        "counts": _read_json(round_.folder / "compare/counts.json"),
        "sampled_prompts": len(read_responses(responses)),
        "digests": {
            "responses": digest_path(responses),
            "model": digest_path(round_.model),
        },
    }


def _measures(round_: Round, *, is_rated: bool) -> dict[str, Any]:
    """The measures of the round's model from its evaluation, its rating, and its win rate; the
    first model has a rating where others are rated against it."""
    (row,) = _read_json(round_.folder / "evaluate/evaluation.json")["models"]
    measures = {key: row[key] for key in rounds_keys()}
    if not round_.number:
        anchor = Interval(ANCHOR_RATING).to_json() if is_rated else None
        return {**measures, "elo": anchor, "win_rate": None}
    ratings, name = _read_json(round_.folder / "arena/ratings.json"), f"round-{round_.number}"
    (rated,) = (model for model in ratings["models"] if model["model"] == name)
    elo = None
    if rated["rating"] is not None:
        elo = {"mean": rated["rating"], "low": rated["low"], "high": rated["high"]}
    return {**measures, "elo": elo, "win_rate": _win_rate(ratings, name)}


def _win_rate(ratings: dict[str, Any], name: str) -> dict[str, float | None] | None:
    """Against the first model's answers to the same prompts, ties half, with the exact interval."""
    (pair,) = ratings["pairs"]
    counts = PairCounts(**pair)
    if counts.a != name:
        counts = counts.swapped()
    return proportion_interval(counts.score, counts.battles).to_json()


def _read_answers(folder: Path) -> list[str]:
    rows = read_responses(folder / "answers/responses.jsonl")
    return [response.text for row in rows for response in row.responses]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
