"""Reads suites by path, hub name, or the name of the one that comes with accord."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accord.data.checks import RowError
from accord.data.files import DataRow, read_rows
from accord.data.report import Dropped
from accord.data.suites.formats import FORMATS, NO_LABEL, SuiteFormat, label_from_word
from accord.data.suites.suite import Label, Suite, SuitePrompt
from accord.errors import DataError

SHIPPED = "accord"
"""The name of the suite that comes with accord: `safety.jsonl` in this folder."""

_SHIPPED_FILE = Path(__file__).with_name("safety.jsonl")
LOOK_ALIKES = ("or-bench-80k", "or-bench-hard-1k")
"""OR-Bench's configurations whose prompts only look harmful."""

REPEATED = "its prompt is in the suites already"


@dataclass(frozen=True, slots=True)
class SuiteSource:
    """Where a suite is read: a path or hub name, or `accord`. `label` is that of all its rows,
    where neither they nor the name say it."""

    path: str
    label: Label | None = None

    @property
    def name(self) -> str:
        """The file's name without its endings, or the hub's name without its owner."""
        if self.path == SHIPPED:
            return SHIPPED
        stem = Path(self.path).name
        return re.sub(r"(?:\.(?:csv|tsv|jsonl?|ndjson|parquet|gz))+$", "", stem) or self.path


def read_suites(sources: Sequence[SuiteSource]) -> list[Suite]:
    """The suites, each prompt once: one that two of them have is the first's.

    Raises DataError where a suite can't be read, has a form that is not known, or none of its rows
    can be used, and where the suites contradict each other on whether a prompt is harmful.
    """
    labels: dict[str, SuitePrompt] = {}
    suites = []
    for source in sources:
        suite = _read_suite(source)
        fresh, dropped = [], {reason: list(rows) for reason, rows in suite.dropped.items()}
        for prompt in suite.prompts:
            earlier = labels.setdefault(prompt.id, prompt)
            if earlier.label != prompt.label:
                raise DataError(
                    f"{prompt.source} calls a prompt {prompt.label} that {earlier.source} calls "
                    f"{earlier.label}: {prompt.request[:80]!r}. Remove it from one of them."
                )
            if earlier is prompt:
                fresh.append(prompt)
            else:
                dropped.setdefault(REPEATED, []).append((prompt.source, str(earlier.source)))
        suites.append(Suite(suite.name, suite.form, tuple(fresh), suite.rows, dropped))
    return suites


def _read_suite(source: SuiteSource) -> Suite:
    rows = list(read_rows(_SHIPPED_FILE if source.path == SHIPPED else source.path))
    form = _find_format(source.path, rows)
    default = source.label or form.label or _label_from_name(source.path)
    prompts, dropped = _parse(rows, form, source, default)
    if not prompts:
        reasons = "; ".join(f"{len(where)} × {reason}" for reason, where in dropped.items())
        remedy = " Give the suite's `label`: harmful or harmless." if NO_LABEL in dropped else ""
        raise DataError(
            f"None of the {len(rows)} rows of {source.path}, read as {form.name}, can be used: "
            f"{reasons}.{remedy}"
        )
    return Suite(source.name, form.name, tuple(prompts), len(rows), dropped)


def _find_format(path: str, rows: Sequence[DataRow]) -> SuiteFormat:
    columns = {column for row in rows for column in row.values}
    names = {column.casefold() for column in columns}
    for form in FORMATS:
        if form.columns <= names:
            return form
    known = "; ".join(
        dict.fromkeys(f"{form.name}: {', '.join(sorted(form.columns))}" for form in FORMATS)
    )
    raise DataError(
        f"{path} has the columns {', '.join(sorted(columns)) or 'of no row'}, which are those of "
        f"no suite. Rename them to one of these forms ({known}), or give rows with `prompt` and "
        f"`label` (harmful or harmless)."
    )


def _label_from_name(path: str) -> Label | None:
    """The label that a file's or split's name gives, such as `benign-behaviors.csv`."""
    words = re.split(r"[^a-z]+", path.casefold().rsplit("/", 1)[-1])
    labels = {label for word in words if (label := label_from_word(word)) is not None}
    if not labels and any(name in path.casefold() for name in LOOK_ALIKES):
        return "harmless"
    return labels.pop() if len(labels) == 1 else None


def _parse(
    rows: Iterable[DataRow], form: SuiteFormat, source: SuiteSource, default: Label | None
) -> tuple[list[SuitePrompt], Dropped]:
    prompts: list[SuitePrompt] = []
    dropped: Dropped = {}
    for row in rows:
        try:
            if row.error is not None:
                raise row.error
            parsed = form.parse({key.casefold(): value for key, value in row.values.items()})
            label = _label(parsed.label, source.label, default)
        except RowError as error:
            dropped.setdefault(error.reason, []).append((row.source, error.detail))
            continue
        prompts.append(
            SuitePrompt(
                parsed.turns,
                label,
                source.name,
                parsed.category,
                parsed.target,
                parsed.attack,
                parsed.language,
                row.source,
            )
        )
    return prompts, dropped


def _label(of_row: Label | None, given: Label | None, default: Label | None) -> Label:
    if of_row is not None and given is not None and of_row != given:
        raise RowError(f"it is labelled {of_row}, not {given} as the suite's `label` says")
    label = of_row or given or default
    if label is None:
        raise RowError(NO_LABEL)
    return label
