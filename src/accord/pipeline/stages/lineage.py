"""rounds.json: which model came from which verdicts, and what each round's model is like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.data.write import read_responses
from accord.errors import DataError
from accord.measure.statistics import proportion_interval
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

    `distinct_2` is taken over the same number of words in every round, those of the shortest
    answers, since it falls as text grows.
    """
    texts = [_answers(one.folder) for one in rounds]
    shared = min(sum(len(words(text)) for text in own) for own in texts)
    rows = []
    for one, own in zip(rounds, texts, strict=True):
        row = {"round": one.number, "model": one.model, **_parents(settings, one)}
        row |= _measures(one.folder, one.number)
        rows.append({**row, "distinct_2": distinct_n(own, 2, tokens=shared)})
    return {
        "model": settings.model,
        "method": settings.method,
        "reference": settings.reference if settings.has_reference else None,
        "keep_data": settings.keep_data,
        "judge": settings.judge.model_dump(mode="json"),
        "seed": settings.seed,
        "distinct_2_words": shared,
        "rounds": rows,
    }


def read_lineage(folder: str | Path) -> dict[str, Any]:
    """The rounds.json of a folder. Raises DataError where none can be read."""
    try:
        read: dict[str, Any] = _json(Path(folder) / FILE)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{Path(folder) / FILE} can't be read: {error}. `accord iterate` writes it."
        ) from error
    return read


def _parents(settings: IterateSettings, one: Round) -> dict[str, Any]:
    """What the round's model was made from, with digests; nothing for the first model."""
    if not one.number:
        return {}
    responses, store = one.folder / "sample/responses.jsonl", one.folder / "compare/store.db"
    reference = settings.model if settings.reference == "fixed" else one.start
    return {
        "start": one.start,
        "reference": reference if settings.has_reference else None,
        "responses": str(responses),
        "verdicts": str(store),
        "counts": _json(one.folder / "compare/counts.json"),
        "sampled_prompts": len(read_responses(responses)),
        "digests": {
            "responses": digest_path(responses),
            "model": digest_path(one.model),
        },
    }


def _measures(folder: Path, number: int) -> dict[str, Any]:
    (row,) = _json(folder / "evaluate/evaluation.json")["models"]
    keys = (
        "true_reward",
        "reward_model_score",
        "kl",
        "mean_length",
        "finished_share",
        "duplicate_share",
        "prompts",
    )
    told = {key: row[key] for key in keys}
    return {**told, "win_rate": _win_rate(folder, number) if number else None}


def _win_rate(folder: Path, number: int) -> dict[str, float | None] | None:
    """Against the first model's answers to the same prompts, ties half, with Wilson's interval."""
    rated = _json(folder / "arena/ratings.json")["models"]
    own = next(row for row in rated if row["model"] == f"round-{number}")
    won = own["wins"] + 0.5 * (own["ties"] + own["both_bad"])
    return proportion_interval(won, own["battles"]).to_json()


def _answers(folder: Path) -> list[str]:
    return [
        r.text for row in read_responses(folder / "answers/responses.jsonl") for r in row.responses
    ]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
