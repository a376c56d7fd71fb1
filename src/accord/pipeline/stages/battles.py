"""Ratings of models by battles: those that an arena has judged, or those of a file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from accord.data.read import read_battles
from accord.measure.ratings.rate import Ratings, rate_models
from accord.pipeline.progress import Progress
from accord.records import Battle
from accord.runs import write_json_atomic
from accord.settings.arena import ArenaSettings

log = logging.getLogger(__name__)


def rate_file(settings: ArenaSettings) -> Iterator[Progress]:
    """Write ratings.json for the battles in a file, and counts.json with what became of its rows.

    Raises DataError where there is no battle.
    """
    assert settings.battles is not None
    yield Progress(0, 1)
    battles, report = read_battles(settings.battles)
    log.info("%s: %s", settings.battles, report.summary())
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "counts.json", {"battles": len(battles), "read": report.to_json()})
    for note in write_ratings(battles, settings).notes:
        log.info("%s", note)
    yield Progress(1, 1)


def write_ratings(battles: Sequence[Battle], settings: ArenaSettings) -> Ratings:
    """Write ratings.json: Bradley-Terry ratings of all models in the battles."""
    ratings = rate_models(
        battles,
        ties=settings.ties,
        anchor=settings.anchor,
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        prior=settings.prior,
        seed=settings.seed,
    )
    write_json_atomic(Path(settings.output_dir) / "ratings.json", ratings.to_json())
    return ratings
