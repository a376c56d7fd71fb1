"""The pairs that a reward is probed on, with the other columns of their rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from accord.compare.dataset import load_records
from accord.compare.store.connection import is_store
from accord.data.checks import RowError
from accord.data.columns import Cells, DialogueText
from accord.data.files import read_rows
from accord.data.formats import collect_meta
from accord.data.read import Conversion
from accord.data.stream import read_columns
from accord.errors import DataError
from accord.reasoning import split_reasoning
from accord.records import Comparison, Prompt, Ranking, Record
from accord.settings.probe import ProbeSettings

CATEGORY_COLUMNS = ("category", "kind")


@dataclass(frozen=True, slots=True)
class Answered:
    """A response as it was read: what precedes its answer (its reasoning), the answer, and whether
    it ended by itself."""

    reasoning: str
    answer: str
    finished: bool

    def changed(self, answer: str) -> str:
        """The whole response with another answer."""
        return self.reasoning + answer


@dataclass(frozen=True, slots=True)
class HeldOutPair:
    """A prompt with the two answers to it, the better one first, and its row's other columns."""

    prompt: Prompt
    chosen: Answered
    rejected: Answered
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeldOutPairs:
    """The pairs that were drawn; `total` is how many there are, `left_out` those that can't be
    probed, by reason, `summary` what was read. `category` is the column of the subsets."""

    pairs: tuple[HeldOutPair, ...]
    total: int
    left_out: Mapping[str, int]
    summary: str
    category: str | None = None


def read_pairs(settings: ProbeSettings, dialogue_text: DialogueText) -> HeldOutPairs:
    """At most `max_pairs` of the usable pairs, drawn by the seed while they are read, so that only
    these are in memory. Raises DataError where none is left, or the category is no column."""
    rng = random.Random(f"probe {settings.seed}")
    drawn: list[tuple[int, HeldOutPair]] = []
    left_out: Counter[str] = Counter()
    total = 0
    reader = _PairReader(settings.preferences, dialogue_text)
    for comparison, meta in reader.rows():
        pair = _usable(comparison, meta)
        if isinstance(pair, str):
            left_out[pair] += 1
            continue
        total += 1
        if settings.max_pairs is None or len(drawn) < settings.max_pairs:
            drawn.append((total, pair))
        else:
            index = rng.randrange(total)
            if index < settings.max_pairs:
                drawn[index] = (total, pair)
    if not drawn:
        reasons = "; ".join(f"{n:,} {reason}" for reason, n in left_out.items())
        raise DataError(
            f"{settings.preferences} has no pair of two answers that a reward can be probed on: "
            f"{reasons}. Give other pairs."
        )
    pairs = tuple(pair for _, pair in sorted(drawn, key=lambda item: item[0]))
    category = _category(settings, pairs)
    return HeldOutPairs(pairs, total, dict(left_out), reader.summary, category)


@dataclass
class _PairReader:
    """Comparisons of a file or store with their rows' other columns, one at a time."""

    path: str
    dialogue_text: DialogueText
    summary: str = ""

    def rows(self) -> Iterator[tuple[Comparison, dict[str, Any]]]:
        if is_store(self.path):
            records, report = load_records(self.path, "preferences", self.dialogue_text)
            self.summary = f"{report.name}: {report.summary()}"
            for record in records:
                yield from ((pair, {}) for pair in _pairs(record))
            return
        columns = read_columns(self.path, "preferences")
        conversion = Conversion(self.path, "preferences", columns.names, self.dialogue_text)
        conversion.require_clear_labels(read_rows(self.path))
        for row in read_rows(self.path):
            try:
                records_of_row = conversion.convert(row)
            except RowError:  # the conversion counts it
                continue
            cells = Cells(row.values, conversion.names, row.source)
            meta = collect_meta(cells, conversion.form_of(row))
            for record in records_of_row:
                yield from ((pair, meta) for pair in _pairs(record))
        report = conversion.report(columns.path, columns.firsts)
        self.summary = f"{report.name}: {report.summary()}"


def _pairs(record: Record) -> Iterator[Comparison]:
    """A comparison, or the pairs of a ranking whose ranks differ, the better answer first."""
    if isinstance(record, Comparison):
        yield record
    if isinstance(record, Ranking):
        count = len(record.responses)
        finished = record.finished or (True,) * count
        fields = record.fields or ("",) * count
        for i, j in product(range(count), repeat=2):
            if record.ranks[i] < record.ranks[j]:
                yield Comparison(
                    record.prompt,
                    record.responses[i],
                    record.responses[j],
                    source=record.source,
                    chosen_finished=finished[i],
                    rejected_finished=finished[j],
                    chosen_fields=fields[i],
                    rejected_fields=fields[j],
                )


def _usable(comparison: Comparison, meta: dict[str, Any]) -> HeldOutPair | str:
    """The pair, or why it can't be probed."""
    if comparison.chosen_fields or comparison.rejected_fields:
        return "with tool calls in an answer"
    chosen = _answered(comparison.chosen, comparison.chosen_finished)
    rejected = _answered(comparison.rejected, comparison.rejected_finished)
    if chosen is None or rejected is None:
        return "whose reasoning never ends"
    if chosen.answer == rejected.answer:
        return "whose answers are equal but for their reasoning"
    return HeldOutPair(comparison.prompt, chosen, rejected, meta)


def _answered(response: str, finished: bool) -> Answered | None:
    parts = split_reasoning(response)
    if parts.answer is None:
        return None
    # An answer that was pieced together from several parts is probed without its reasoning.
    reasoning = response[: len(response) - len(parts.answer)]
    is_end = response.endswith(parts.answer) if parts.answer else True
    return Answered(reasoning if is_end else "", parts.answer, finished)


def _category(settings: ProbeSettings, pairs: tuple[HeldOutPair, ...]) -> str | None:
    columns = dict.fromkeys(column for pair in pairs for column in pair.meta)
    if settings.category is not None:
        if settings.category not in columns:
            raise DataError(
                f"{settings.preferences} has no column `{settings.category}`. Its other columns: "
                f"{', '.join(columns) or 'none'}."
            )
        return settings.category
    return next((column for column in CATEGORY_COLUMNS if column in columns), None)
