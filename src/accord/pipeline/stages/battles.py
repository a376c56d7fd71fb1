"""Ratings of models by battles: those that an arena has judged, of a store, or of a file."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from accord.compare.store.connection import is_store
from accord.compare.store.rows import Selection, StoredVerdict
from accord.compare.store.store import PreferenceStore
from accord.data.battle_columns import (
    NUMBERS,
    BattleBatch,
    BattleFile,
    category_name,
)
from accord.data.read import describe_unusable, read_battles
from accord.data.record_batches import NotColumnarError
from accord.data.report import ReadReport
from accord.errors import DataError
from accord.measure.ratings.battles import SWAPPED
from accord.measure.ratings.builder import TableBuilder
from accord.measure.ratings.document import RatingDocument, rating_document
from accord.measure.ratings.elo import online_elo_of_columns
from accord.measure.ratings.paired import SCORES
from accord.measure.ratings.rate import rate_models
from accord.pipeline.progress import Progress
from accord.records import Outcome
from accord.runs import write_json_atomic
from accord.settings.arena import ArenaSettings

log = logging.getLogger(__name__)


def rate_file(settings: ArenaSettings) -> Iterator[Progress]:
    """Write ratings.json for the battles in a file or a store, and counts.json with what became of
    its rows.

    Raises DataError where there is no battle.
    """
    assert settings.battles is not None
    folder = Path(settings.output_dir)
    if is_store(settings.battles):
        with PreferenceStore.read(settings.battles) as store:
            builder, positions = build_from_store(store, settings.category)
            counts: dict[str, Any] = dict(store.counts())
        folder.mkdir(parents=True, exist_ok=True)
    else:
        builder, positions = TableBuilder(), True
        reading = BattleFile(
            settings.battles, category=settings.category, texts=bool(settings.style)
        )
        yield from _read_file(reading, builder)
        report = _report(reading, builder)
        log.info("%s: %s", settings.battles, report.summary())
        folder.mkdir(parents=True, exist_ok=True)
        counts = {"battles": report.used, "read": report.to_json()}
    write_json_atomic(folder / "counts.json", counts)
    write_ratings(builder, settings, positions=positions)
    yield Progress(1, 1)


def _read_file(reading: BattleFile, builder: TableBuilder) -> Iterator[Progress]:
    """Add the battles of a file, by columns or else by rows."""
    yield Progress(0, 1)
    try:
        for batch in reading.columnar():
            builder.add(batch)
            yield Progress(0, 1, f"{reading.rows:,} rows")
        return
    except NotColumnarError:
        builder.clear()
    try:
        for batch in reading.by_rows():
            builder.add(batch)
            yield Progress(0, 1, f"{reading.rows:,} rows")
    except NotColumnarError:
        read_battles(reading.path)  # raises the error that says what the columns would fit
        raise DataError(f"{reading.path} holds no battles.") from None


def _report(reading: BattleFile, builder: TableBuilder) -> ReadReport:
    used = builder.battles
    if not used:
        raise describe_unusable(reading.path, reading.rows, "battles", reading.dropped)
    return ReadReport(reading.path, reading.rows, used, used, reading.dropped)


def build_from_store(
    store: PreferenceStore, category: str | None = None
) -> tuple[TableBuilder, bool]:
    """The battles in a store with their prompts, answers and categories (of the prompts' meta), and
    whether it is known for each which answer was shown first, which then is the first.

    Raises DataError where no prompt has the category.
    """
    builder, positions = TableBuilder(), True
    groups = {}
    if category is not None:
        groups = {p.id: category_name(p.meta.get(category)) for p in store.prompts()}
        if not any(groups.values()):
            raise DataError(
                f"No prompt of {store.path} has {category!r} in its `meta` for `category`. Name a "
                "field that the prompts have, or leave it out."
            )
    for kind in ("pair", "ranking"):
        for verdicts, judged in store.judged_chunks(Selection(kind=kind)):
            rows = []
            for verdict in verdicts:
                for i, j, number, known in _battles_of(verdict):
                    items = (verdict.items[i], verdict.items[j])
                    first, second = (judged.responses[item.response_id] for item in items)
                    if first.model != second.model:
                        rows.append((first, second, number, verdict.prompt_id))
                        positions = positions and known
            if rows:
                builder.add(
                    BattleBatch(
                        [first.model for first, *_ in rows],
                        [second.model for _, second, *_ in rows],
                        np.array([number for *_, number, _ in rows], dtype=np.int64),
                        [str(prompt) for *_, prompt in rows],
                        [groups[prompt] for *_, prompt in rows] if category else None,
                        ([a.answer for a, *_ in rows], [b.answer for _, b, *_ in rows]),
                    )
                )
    if not builder.battles:
        raise DataError(
            f"{store.path} holds no verdict between two models. Let a judge or people compare the "
            "responses of different models first."
        )
    return builder, positions


def _battles_of(verdict: StoredVerdict) -> Iterator[tuple[int, int, int, bool]]:
    """The two items of each battle in a verdict, the one shown first in front, the outcome's
    number, and whether it is known which was shown first. A ranking is a battle of each two."""
    if verdict.kind == "pair":
        if verdict.outcome in NUMBERS:
            shown = verdict.items[0].shown
            outcome = cast(Outcome, verdict.outcome)
            if shown == 1:
                yield 1, 0, NUMBERS[SWAPPED[outcome]], True
            else:
                yield 0, 1, NUMBERS[outcome], shown is not None
        return
    if verdict.outcome is None:
        for i, j in itertools.combinations(range(len(verdict.items)), 2):
            a, b = (verdict.items[k].rank or 0 for k in (i, j))
            yield i, j, NUMBERS["tie" if a == b else "a" if a < b else "b"], False


def write_ratings(
    builder: TableBuilder, settings: ArenaSettings, *, positions: bool
) -> RatingDocument:
    """Write ratings.json: Bradley-Terry ratings of all models in the battles, and what else these
    say about the models. Its notes are logged."""
    table = builder.table()
    ratings = rate_models(
        table,
        ties=settings.ties,
        anchor=settings.anchor,
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        prior=settings.prior,
        seed=settings.seed,
    )
    scores = SCORES[table.outcome].tolist()
    online = online_elo_of_columns(table.names, table.a.tolist(), table.b.tolist(), scores)
    rows = tuple(replace(row, elo_online=online.get(row.model)) for row in ratings.models)
    document = rating_document(
        table,
        replace(ratings, models=rows),
        styles=settings.style,
        prior=settings.prior,
        positions=positions,
        constant=builder.constant_models(),
    )
    write_json_atomic(Path(settings.output_dir) / "ratings.json", document.to_json())
    for note in document.all_notes:
        log.info("%s", note)
    return document
