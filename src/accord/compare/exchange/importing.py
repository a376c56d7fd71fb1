"""Rows of preferences into a store, each once however often a file is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from accord.compare.store.inserts import prompt_digest
from accord.compare.store.items import make_items
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict, Verdict
from accord.data.checks import RowError
from accord.data.imports.judged import JudgedRow, Opinion
from accord.data.imports.read import ImportedFile, open_import
from accord.data.report import Dropped, ReadReport, count_dropped
from accord.errors import DataError
from accord.records import Response, Source
from accord.runs.activity import with_activity

CHUNK = 500  # rows in memory, and in one transaction


@dataclass(slots=True)
class ImportResult:
    """`report` on the rows of a file; `added` of `verdicts` verdicts were new to the store.

    `replaced` is how many of the new ones replace another of the same annotator on the same
    responses and criterion.
    """

    report: ReadReport
    form: str
    verdicts: int = 0
    added: int = 0
    replaced: int = 0

    def summary(self) -> str:
        """What was read, added and dropped, as one paragraph."""
        text = f"Read as {self.form}: {self.report.summary()} {self.added:,} verdicts are added"
        if self.added < self.verdicts:
            text += f", {self.verdicts - self.added:,} repeat one that the store has"
        if self.replaced:
            text += (
                f"; {self.replaced:,} replace an earlier one of the same annotator on the same "
                "responses (where these are several people, name them in a column `annotator`)"
            )
        return text + "."


@dataclass(slots=True)
class _ImportBatch:
    """Responses and verdicts of some rows, with the keys that make each unique."""

    responses: list[Response] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    opinions: list[tuple[list[int], Opinion, str]] = field(default_factory=list)


def import_preferences(
    path: str | Path,
    store: str | Path,
    *,
    form: str | None = None,
    source: str | None = None,
    annotator: str | None = None,
    round_number: int = 0,
) -> ImportResult:
    """Add the preferences in a file, a folder or a hub data set to a store, which may be new.

    `source` (by default the file's name) and `annotator` (by default the source) are those of rows
    that name none; `round_number` is that of rows without
    one. A row's responses and verdicts have keys
    made of their content, so that a file that is imported again adds nothing. A row that can't be
    used is in the report, with its line.

    Raises DataError where the rows hold no preferences, or none that can be used.
    """
    imported = open_import(path, form)
    name = source or Path(imported.path).name
    defaults = {"source": name, "annotator": annotator or name, "round": round_number}
    dropped: Dropped = {}
    rows = used = 0
    result = ImportResult(ReadReport(imported.path, 0, 0, 0), imported.form)
    with PreferenceStore.open(store) as opened:
        before = opened.counts()
        for chunk in _chunks(imported):
            rows += len(chunk)
            batch = _ImportBatch()
            for origin, row in chunk:
                try:
                    if isinstance(row, RowError):
                        raise row
                    _add_row(batch, row, defaults)
                    used += 1
                except RowError as error:
                    dropped.setdefault(error.reason, []).append((origin, error.detail))
            result.verdicts += _write(opened, batch)
        after = opened.counts()
    if not used:
        (_, detail), *_ = max(dropped.values(), key=len)
        reasons = "; ".join(f"{len(at):,} {reason}" for reason, at in dropped.items())
        raise DataError(
            f"{imported.path} has {rows:,} rows, none of which can be imported as {imported.form}: "
            f"{reasons} (the first: {detail or 'line 1'}). Give another file, or name its format "
            "with --format."
        )
    result.added = after["verdicts"] - before["verdicts"]
    result.replaced = after["superseded"] - before["superseded"]
    assert rows == used + count_dropped(dropped)
    notes = imported.list_notes(used)
    result.report = ReadReport(imported.path, rows, used, result.verdicts, dropped, notes)
    return result


def _chunks(imported: ImportedFile) -> Iterator[list[tuple[Source, JudgedRow | RowError]]]:
    chunk: list[tuple[Source, JudgedRow | RowError]] = []
    for item in with_activity(imported.rows(), "importing"):
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _add_row(batch: _ImportBatch, row: JudgedRow, defaults: Mapping[str, Any]) -> None:
    """Add a row to the batch. Raises RowError, before anything is added, where it can't be."""
    if any("\0" in answer.text for answer in row.answers):
        raise RowError("a response holds the character NUL, which a database can't hold")
    prompt = prompt_digest(row.prompt)
    digests = [
        _digest([prompt, a.text, a.model, a.finished, *([a.opened] if a.opened else [])])
        for a in row.answers
    ]
    opinions = []
    for opinion in row.opinions:
        named = [digests[number] for number in opinion.answers]
        if len(set(named)) < len(named):
            raise RowError("two of the responses are equal")
        filled = _with_defaults(opinion, defaults)
        # Checked with any ids: the store would refuse the whole chunk.
        try:
            make_items(_verdict(filled, [*range(len(named))], key="x"))
        except (DataError, TypeError) as error:
            raise RowError("a verdict that contradicts itself", str(error)[:120]) from error
        opinions.append((filled, named))
    first = len(batch.responses)
    batch.responses += [
        Response(row.prompt, a.text, a.model, finished=a.finished, opened=a.opened)
        for a in row.answers
    ]
    batch.keys += digests
    for filled, named in opinions:
        numbers = [first + number for number in filled.answers]
        batch.opinions.append((numbers, filled, _opinion_key(filled, named)))


def _with_defaults(opinion: Opinion, defaults: Mapping[str, Any]) -> Opinion:
    fields = {
        "source": defaults["source"],
        "round": defaults["round"],
        **{key: value for key, value in opinion.fields.items() if value is not None},
    }
    return Opinion(
        opinion.kind,
        opinion.answers,
        opinion.outcome,
        opinion.ranks,
        opinion.score,
        opinion.annotator or defaults["annotator"],
        fields,
    )


def _write(store: PreferenceStore, batch: _ImportBatch) -> int:
    ids = store.add_responses(batch.responses, batch.keys)
    verdicts = [
        _verdict(opinion, [ids[number] for number in numbers], key)
        for numbers, opinion, key in batch.opinions
    ]
    store.add_verdicts(verdicts)
    return len(verdicts)


def _verdict(opinion: Opinion, ids: Sequence[int], key: str) -> Verdict:
    """The verdict on the responses with these ids. Raises TypeError for a field that it has not."""
    fields = dict(opinion.fields)
    shown = fields.pop("shown", None)
    annotator = opinion.annotator or ""
    if opinion.kind == "pair":
        if shown is not None:
            fields["shown_first"] = "a" if shown[0] < shown[1] else "b"
        a, b = ids
        return PairVerdict(a, b, opinion.outcome, annotator, key=key, **fields)  # type: ignore[arg-type]
    outcome: Any = opinion.outcome
    fields.pop("probability", None)
    if opinion.kind == "ranking":
        fields.pop("strength", None)
        if shown is not None:
            order = sorted(range(len(ids)), key=lambda number: shown[number])
            fields["shown"] = tuple(ids[number] for number in order)
        return RankingVerdict(
            tuple(ids), opinion.ranks, annotator, outcome=outcome, key=key, **fields
        )
    return RatingVerdict(ids[0], opinion.score, annotator, outcome=outcome, key=key, **fields)


def _opinion_key(opinion: Opinion, responses: Sequence[str]) -> str:
    """A key of all that the opinion says, on the responses in their order."""
    content = [
        opinion.kind,
        responses,
        opinion.outcome,
        opinion.ranks,
        opinion.score,
        opinion.annotator,
        dict(opinion.fields),
    ]
    return f"import:{_digest(content)}"


def _digest(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
