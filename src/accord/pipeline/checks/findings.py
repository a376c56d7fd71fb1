"""Findings: what is wrong, in how many rows, in which, and what mends it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accord.data.report import ReadReport
from accord.measure.rows.near_duplicates import near_duplicates
from accord.measure.rows.noise import LEAST_PAIRS, LabelNoise, label_noise
from accord.measure.rows.orders import contradictions, cycles
from accord.measure.statistics import Interval, proportion_interval
from accord.pipeline.checks.collect import Collected, folds
from accord.pipeline.checks.kinds import KINDS, Level
from accord.pipeline.checks.single import Tally
from accord.records import Source
from accord.report.formatting import format_share

FORM_OF_THE_DATA = 0.9  # share of answers from which on thoughts are the data's form, no defect
LOPSIDED = 0.6  # share of wins above which, by all of its interval, a note is a warning


@dataclass(frozen=True, slots=True)
class RowFinding:
    """A row of a finding: where it was read, and what is this row's alone."""

    source: Source
    number: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FoundRows:
    """The rows of a finding, made when they are asked for: a million of them take 8 MB."""

    collected: Collected
    kind: str
    records: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[RowFinding]:
        details, numbers = self.collected.details[self.kind], self.collected.number
        for record in self.records.tolist():
            source = self.collected.source(record)
            yield RowFinding(source, numbers[record], details.get(record, ""))

    def first(self, count: int) -> list[RowFinding]:
        """The first rows, at most `count`."""
        return list(islice(self, count))


@dataclass(frozen=True, slots=True)
class DataFinding:
    """`count` of `of` rows (or pairs) have a defect, a `rate` with its exact interval.

    `rows` are in the order of the file. `command` leaves them out, where that can be done.
    """

    kind: str
    level: Level
    count: int
    of: int
    rate: Interval
    rows: FoundRows | None = None
    remark: str = ""
    command: str = ""

    @property
    def title(self) -> str:
        """What was found, in a few words."""
        return KINDS[self.kind].title

    def to_json(self, rows: int | None = None) -> dict[str, Any]:
        """All fields, with the meaning and the remedy of the kind; at most `rows` rows."""
        kind = KINDS[self.kind]
        return {
            "kind": self.kind,
            "level": self.level,
            "title": kind.title,
            "meaning": kind.meaning,
            "remark": self.remark,
            "count": self.count,
            "records": len(self.rows or ()),
            "of": self.of,
            "rate": self.rate.to_json(),
            "remedy": kind.remedy,
            "command": self.command,
            "rows": [
                {"path": r.source.path, "line": r.source.line, "row": r.number, "detail": r.detail}
                for r in islice(self.rows or (), rows)
            ],
        }


def compare_rows(collected: Collected) -> list[str]:
    """Flag what only a comparison of rows shows; returns what a reader has to know of it."""
    usable = collected.usable()
    _flag_orders(collected)
    _flag_repeats(collected, usable)
    _flag_splits(collected, usable)
    return [_flag_noise(collected)] if collected.spill.pairs >= LEAST_PAIRS else []


def _flag_repeats(collected: Collected, usable: NDArray[np.int64]) -> None:
    whole = np.asarray(collected.whole)[usable]
    order = np.argsort(whole, kind="stable")
    repeated = np.concatenate([[False], whole[order][1:] == whole[order][:-1]])[: len(order)]
    begins = np.flatnonzero(~repeated)[np.cumsum(~repeated) - 1]
    for at in np.flatnonzero(repeated).tolist():
        first = usable[order[begins[at]]]
        record = int(usable[order[at]])
        collected.flag("duplicates", record, _like(collected, int(first)))
    firsts = np.sort(order[~repeated])
    near = near_duplicates(collected.spill.bands(), firsts, collected.spill.signatures)
    reversed_pairs = set(collected.flagged("contradictions").tolist())
    for row, like, similar in zip(near.rows, near.like, near.similarity, strict=True):
        if int(usable[row]) in reversed_pairs:
            continue  # of which the first is no better than the others
        detail = f"{similar:.0%} as {_like(collected, int(usable[like]))[3:]}"
        collected.flag("near-duplicates", int(usable[row]), detail)


def _like(collected: Collected, record: int) -> str:
    return f"as {collected.source(record).without_folder()}"


def _flag_orders(collected: Collected) -> None:
    winners, losers, records = (np.asarray(values).astype(np.uint64) for values in collected.edges)
    for edge, reverse in zip(*contradictions(winners, losers), strict=True):
        against = collected.source(int(records[reverse])).without_folder()
        collected.flag("contradictions", int(records[edge]), f"against {against}")
    for edge, group in zip(*cycles(winners, losers), strict=True):
        collected.flag("cycles", int(records[edge]), f"cycle {group + 1}")
    nodes, labels, of = (np.asarray(values) for values in collected.labels)
    both = np.intersect1d(nodes[labels == 1], nodes[labels == 0])
    for record in of[np.isin(nodes, both)].tolist():
        collected.flag("contradictions", record, "labelled good and bad")


def _flag_splits(collected: Collected, usable: NDArray[np.int64]) -> None:
    """Flag prompts that occur under several values of a column `split`."""
    split = np.asarray(collected.split)[usable]
    of_split = usable[split > 0]
    prompts = np.asarray(collected.prompt)[of_split]
    pairs = np.unique(np.stack([prompts, split[split > 0].astype(np.int64)], axis=1), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    for record in of_split[np.isin(prompts, values[counts > 1])].tolist():
        collected.flag("shared-prompts", record, "under several values of `split`")


def _flag_noise(collected: Collected) -> str:
    records = np.concatenate([records for records, _ in collected.spill.features()])
    start = 0

    def read() -> Any:
        nonlocal start
        start = 0
        for of, features in collected.spill.features():
            yield np.arange(start, start + len(of)), features
            start += len(of)

    noise = label_noise(folds(collected, records), read)
    collected.agreement = noise.agreement
    for pair in noise.unlikely().tolist():
        detail = f"{noise.probability[pair]:.1%}"
        collected.flag("label-noise", int(records[pair]), detail)
    return _describe_noise(noise, collected)


def _describe_noise(noise: LabelNoise, collected: Collected) -> str:
    agreement = f"{noise.agreement.mean:.1%} of the labels ({format_bounds(noise.agreement)})"
    if not noise.informative:
        collected.unchecked["label-noise"] = (
            f"a model of words, length and markup agrees with only {agreement} of prompts that it "
            "did not see, no better than chance"
        )
        return ""
    return (
        f"A model of words, length and markup agrees with {agreement} of prompts that it did not "
        "see: the better it agrees, the more wrong labels it can name."
    )


def _note_unchecked(collected: Collected) -> None:
    """Say of each kind that needs what the rows or the command lack why it was not checked."""
    tallies, unchecked, held_out = collected.tallies, collected.unchecked, collected.held_out
    pairs = collected.spill.pairs
    if not held_out.splits and len(collected.splits) < 3:
        unchecked["shared-prompts"] = "name the other split with --held-out PATH"
    if not held_out.evaluation.grams:
        unchecked["evaluation-overlap"] = "name an evaluation set with --eval-set PATH"
    if not tallies.scored:
        unchecked["scores"] = "no row has a score of both responses, such as `score_chosen`"
    if pairs < LEAST_PAIRS:
        unchecked["label-noise"] = f"{pairs:,} pairs; a model of labels needs {LEAST_PAIRS}"
    if not pairs:
        for kind in ("equal-pairs", "cycles", "refusals"):
            unchecked[kind] = "the rows compare no responses"
        if not collected.labels[0]:
            unchecked["contradictions"] = "the rows hold no labels"
    if pairs and not tallies.first.pairs:
        unchecked["first"] = "no row says which response was shown first"
    if not tallies.answered:
        for kind in ("wrong-turn", "prompt-echo", "cut-endings"):
            unchecked[kind] = "the rows hold no responses"


def conclude(
    collected: Collected, report: ReadReport, path: str, ignore: Sequence[str], given: str
) -> tuple[list[DataFinding], list[str]]:
    """The findings in the order of `KINDS`, and the kinds that were checked and are clean.

    `given` are the options that the command that mends repeats.
    """
    numbers = np.asarray(collected.number)
    total = len(np.unique(numbers))
    findings, clean = [], []
    _note_unchecked(collected)
    tallies = collected.tallies
    by_tally = {"longer": tallies.longer, "formatted": tallies.formatted, "first": tallies.first}
    for name, kind in KINDS.items():
        if name in ignore:
            continue
        if name in by_tally:
            if by_tally[name].pairs:
                findings.append(_tendency(name, by_tally[name]))
            continue
        records = collected.flagged(name)
        if not len(records):
            clean += [] if name in collected.unchecked else [name]
            continue
        count = len(np.unique(numbers[records]))
        level: Level = kind.level
        remark = ""
        if name == "thoughts" and tallies.thoughts >= FORM_OF_THE_DATA * tallies.answered:
            level, remark = "note", "Nearly all answers have one, so it is the form of this data."
        if name == "unusable":
            remark = _reasons(report)
        findings.append(
            DataFinding(
                name,
                level,
                count,
                total,
                proportion_interval(count, total),
                FoundRows(collected, name, records),
                remark,
                mending_command(path, name, given),
            )
        )
    return sorted(findings, key=lambda f: ("error", "warning", "note").index(f.level)), clean


def _tendency(name: str, tally: Tally) -> DataFinding:
    rate = proportion_interval(tally.wins, tally.pairs)
    low, high = rate.low or 0.0, rate.high or 1.0
    lopsided = low > LOPSIDED or high < 1 - LOPSIDED
    return DataFinding(name, "warning" if lopsided else "note", tally.wins, tally.pairs, rate)


def _reasons(report: ReadReport) -> str:
    counts = sorted(((len(rows), reason) for reason, rows in report.dropped.items()), reverse=True)
    return "; ".join(f"{count:,} {reason}" for count, reason in counts) + "."


def mending_command(path: str, kind: str, given: str = "") -> str:
    """The command that writes the rows without those of a finding."""
    name = Path(path.rstrip("/")).name.split(".")[0].replace("/", "-") or "rows"
    given = given if kind in ("shared-prompts", "evaluation-overlap") else ""
    drop = f"--drop {kind} --write {shlex.quote(f'{name}.clean.jsonl')}"
    return f"accord data check {shlex.quote(path)} {given}{drop}"


def format_bounds(interval: Interval) -> str:
    """`57.7% to 62.6%`."""
    high = 1.0 if interval.high is None else interval.high
    return f"{format_share(interval.low or 0.0)} to {format_share(high)}"


def format_rate(finding: DataFinding) -> str:
    """`200 of 20,000 rows (1.0%, 0.9% to 1.1%)`."""
    what = "rows" if finding.rows is not None else "pairs that differ in it"
    what = "pairs" if finding.kind == "first" else what
    return (
        f"{finding.count:,} of {finding.of:,} {what} ({format_share(finding.rate.mean)}, "
        f"{format_bounds(finding.rate)})"
    )
