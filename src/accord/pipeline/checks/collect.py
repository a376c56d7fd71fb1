"""Collects what the findings need while the rows pass by, a batch at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from accord.measure.rows.near_duplicates import band_keys, minima
from accord.measure.rows.noise import FOLDS, pair_features
from accord.measure.rows.overlap import EvaluationTexts, overlaps
from accord.measure.rows.words import Words, hash_words, shingles
from accord.measure.statistics import Interval
from accord.pipeline.checks.kinds import KINDS
from accord.pipeline.checks.rows import CheckedRow
from accord.pipeline.checks.single import Tallies, dense_features, prompt_of, row_defects
from accord.pipeline.checks.spill import Spill
from accord.pipeline.progress import Progress
from accord.records import Source

MAX_DETAILS = 1000  # of each kind that are stored; further rows are named without their detail
_BATCH_ROWS = 2048
_BATCH_CHARACTERS = 1_000_000
COMPARED = 200_000  # characters of a text that are compared with other rows
_BITS = {kind: 1 << i for i, kind in enumerate(KINDS)}


def digest(text: str) -> int:
    """A 63-bit hash of a text, the same in every run."""
    return (
        int.from_bytes(
            blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
        )
        >> 1
    )


def same_prompt(prompt: str) -> int:
    """The digest of a prompt up to case and blanks: what counts as one prompt."""
    return digest(" ".join(prompt.split()).casefold())


@dataclass(slots=True)
class HeldOut:
    """Prompts that must not occur in the rows: of other splits by digest, and evaluation sets."""

    splits: dict[int, Source] = field(default_factory=dict)
    evaluation: EvaluationTexts = field(default_factory=EvaluationTexts)
    sources: list[Source] = field(default_factory=list)


@dataclass(slots=True)
class Collected:
    """Of each record, in the order of the rows: its row, file and line, digests and findings.

    `edges` are preferences between responses: digests of winner and loser, and the record.
    `labels` are those of single responses: a response's digest, 1 or 0, and the record.
    `unchecked` are kinds that could not be checked, with the reason. `agreement` is how often a
    model of words predicts the label of an unseen prompt's pair, where there are enough pairs.
    """

    spill: Spill
    held_out: HeldOut
    number: array[int] = field(default_factory=lambda: array("I"))
    line: array[int] = field(default_factory=lambda: array("q"))
    path: array[int] = field(default_factory=lambda: array("I"))
    paths: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    prompt: array[int] = field(default_factory=lambda: array("q"))
    whole: array[int] = field(default_factory=lambda: array("q"))
    split: array[int] = field(default_factory=lambda: array("I"))
    splits: dict[str | None, int] = field(default_factory=lambda: {None: 0})
    flags: array[int] = field(default_factory=lambda: array("I"))
    edges: tuple[array[int], array[int], array[int]] = field(
        default_factory=lambda: (array("q"), array("q"), array("q"))
    )
    labels: tuple[array[int], array[int], array[int]] = field(
        default_factory=lambda: (array("q"), array("B"), array("q"))
    )
    details: dict[str, dict[int, str]] = field(default_factory=lambda: {k: {} for k in KINDS})
    tallies: Tallies = field(default_factory=Tallies)
    unchecked: dict[str, str] = field(default_factory=dict)
    agreement: Interval | None = None

    def flag(self, kind: str, record: int, detail: str = "") -> None:
        """Add a record to the findings of a kind."""
        self.flags[record] |= _BITS[kind]
        if detail and len(self.details[kind]) < MAX_DETAILS:
            self.details[kind].setdefault(record, detail)

    def flagged(self, kind: str) -> NDArray[np.int64]:
        """The records of a kind, in order."""
        return np.flatnonzero(np.asarray(self.flags) & _BITS[kind])

    def source(self, record: int) -> Source:
        """Where a record was read."""
        line = self.line[record]
        return Source(self.names[self.path[record]], line if line >= 0 else None)

    def usable(self) -> NDArray[np.int64]:
        """The records that can be used."""
        return np.flatnonzero(np.asarray(self.whole) >= 0)


def collect(rows: Iterable[CheckedRow], into: Collected, total: int) -> Iterator[Progress]:
    """Look at all rows, of `total` (0: not known)."""
    batch: list[tuple[int, CheckedRow, str, list[int]]] = []
    characters = 0
    for row in rows:
        prompt = prompt_of(row)
        record, markup = _add(row, prompt, into)
        if row.error is None:
            batch.append((record, row, prompt, markup))
            characters += len(prompt) + sum(map(len, row.responses))
        if len(batch) >= _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            _add_batch(batch, into)
            batch, characters = [], 0
            yield Progress(row.number + 1, total or row.number + 1, "looking at rows")
    if batch:
        _add_batch(batch, into)


def _add(row: CheckedRow, prompt: str, into: Collected) -> tuple[int, list[int]]:
    """Add what one row gives by itself; returns the record's number and its markup."""
    record = len(into.number)
    source = row.source
    into.number.append(row.number)
    into.line.append(-1 if source.line is None else source.line)
    if source.path not in into.paths:
        into.paths[source.path] = len(into.names)
        into.names.append(source.path)
    into.path.append(into.paths[source.path])
    into.split.append(into.splits.setdefault(row.split, len(into.splits)))
    into.flags.append(0)
    defects, markup = row_defects(row, prompt, into.tallies)
    for kind, detail in defects.items():
        into.flag(kind, record, detail)
    if row.error is not None:
        into.prompt.append(-1)
        into.whole.append(-1)
        return record, markup
    key = same_prompt(prompt)
    into.prompt.append(key)
    nodes = [digest(f"{key}\0{response}") for response in row.responses]
    into.whole.append(digest(f"{key}\0{prompt}\0{nodes}\0{row.ranks}\0{row.score}"))
    if key in into.held_out.splits:
        into.flag("shared-prompts", record, f"as {into.held_out.splits[key].without_folder()}")
    _add_preferences(row, nodes, record, into)
    return record, markup


def _add_preferences(row: CheckedRow, nodes: list[int], record: int, into: Collected) -> None:
    if row.ranks is None:
        if row.score in (0.0, 1.0):
            for values, value in zip(into.labels, (nodes[0], int(row.score), record), strict=True):
                values.append(value)
        return
    order = sorted(set(row.ranks))
    for rank, below in pairwise(order):
        winners = [node for node, r in zip(nodes, row.ranks, strict=True) if r == rank]
        losers = [node for node, r in zip(nodes, row.ranks, strict=True) if r == below]
        for winner in winners:
            for loser in losers:
                for values, value in zip(into.edges, (winner, loser, record), strict=True):
                    values.append(value)


def _add_batch(batch: list[tuple[int, CheckedRow, str, list[int]]], into: Collected) -> None:
    """Add what is compared between rows: signatures, overlaps and features, for many rows."""
    texts: list[str] = []
    firsts = []  # the index of each row's prompt among the texts; its responses follow
    for _, row, prompt, _ in batch:
        firsts.append(len(texts))
        texts += (text[:COMPARED] for text in (prompt, *row.responses))
    words = hash_words(texts)
    grams, starts = shingles(words)
    # Each row has two segments of n-grams: the prompt's, and those of all responses.
    prompts = np.asarray(firsts)
    bounds = np.append(np.stack([starts[prompts], starts[prompts + 1]], axis=1), starts[-1])
    least = minima(grams, bounds)
    whole = np.minimum(least[0::2], least[1::2])
    into.spill.add_signatures(least[0::2], least[1::2], band_keys(whole))
    if into.held_out.evaluation.grams:
        for at, item in overlaps(_texts_of(words, prompts), into.held_out.evaluation):
            detail = f"as {into.held_out.sources[item].without_folder()}"
            into.flag("evaluation-overlap", batch[at][0], detail)
    pairs = [
        (record, first, *ends, dense_features(row, markup))
        for (record, row, _, markup), first in zip(batch, firsts, strict=True)
        if (ends := row.best_and_worst()) is not None
    ]
    if pairs:
        records, first, best, worst, dense = (np.asarray(c) for c in zip(*pairs, strict=True))
        features = pair_features(words, first + 1 + best, first + 1 + worst, dense)
        into.spill.add_features(records, features)


def _texts_of(words: Words, texts: NDArray[np.int64]) -> Words:
    """The words of some of the texts."""
    begin, stop = words.starts[texts], words.starts[texts + 1]
    counts = stop - begin
    starts = np.concatenate([[0], np.cumsum(counts)])
    at = np.repeat(begin - starts[:-1], counts) + np.arange(starts[-1])
    return Words(words.hashes[at], starts.astype(np.int64))


def folds(collected: Collected, records: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fold of each record, the same for all records of one prompt."""
    folds: NDArray[np.int64] = np.asarray(collected.prompt)[records] % FOLDS
    return folds
