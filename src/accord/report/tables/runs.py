"""The page's tables about the run as data: its stages, and what became of the rows they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.report.plain import duration, moment, visible
from accord.report.reading import Stage
from accord.settings.stage_kinds import METHOD_SETTINGS, STAGES


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage as the page tells it: settings that differ from the defaults, and all of them."""

    name: str
    kind: str
    status: str
    started: str
    seconds: str
    given: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]


def stage_line(stage: Stage) -> StageLine:
    defaults = _defaults(stage.kind)
    told = {key: value for key, value in stage.settings.items() if value is not None}
    given = {k: v for k, v in told.items() if k != "output_dir" and defaults.get(k, ...) != v}
    status = str(stage.manifest.get("status") or "")
    return StageLine(
        name=visible(stage.name),
        kind=visible(stage.kind if stage.kind != stage.name else ""),
        status="" if status == "finished" else visible(status),
        started=moment(stage.manifest.get("started")),
        seconds=duration(stage.seconds),
        given=tuple((visible(key), _short(value)) for key, value in given.items()),
        settings=tuple((visible(key), _plain(value)) for key, value in told.items()),
    )


def _defaults(kind: str) -> Mapping[str, Any]:
    found = METHOD_SETTINGS.get(kind) or STAGES.get(kind)
    if not isinstance(found, type):
        return {}
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in found.model_fields.items()
        if not field.is_required()
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_plain(inner) for inner in value)
    return visible(str(value))


def _short(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > 2:
        return f"{len(value)} entries"
    text = _plain(value)
    return text if len(text) <= 60 else f"…{text[-58:]}" if "/" in text else f"{text[:58]}…"


@dataclass(frozen=True, slots=True)
class DataLine:
    """What became of one data set's rows."""

    stage: str
    place: str
    rows: str
    used: str
    notes: tuple[str, ...]


def data_lines(stages: Sequence[Stage]) -> list[DataLine]:
    """A line for each data set that a training stage read."""
    return [
        _data_line(stage, read, told.get("encoded") or {})
        for stage in stages
        for told in stage.data.values()
        if (read := told.get("read"))
    ]


def _data_line(stage: Stage, read: Mapping[str, Any], encoded: Mapping[str, Any]) -> DataLine:
    notes = [
        f"{len(rows):,} dropped: {visible(str(reason))}"
        for reason, rows in (read.get("dropped") or {}).items()
    ]
    notes += [
        f"{count:,} dropped: {visible(str(reason))}"
        for reason, count in (encoded.get("dropped") or {}).items()
    ]
    notes += [
        f"{encoded[key]:,} {what}"
        for key, what in (("prompts_cut", "prompts cut"), ("responses_cut", "responses cut"))
        if encoded.get(key)
    ]
    notes += [visible(str(note)) for note in read.get("notes") or ()]
    used = encoded.get("used", read.get("used"))
    return DataLine(
        stage=visible(stage.name),
        place=visible(str(read.get("place", ""))),
        rows=f"{read.get('rows', 0):,}",
        used=f"{used:,}" if isinstance(used, int) else "–",
        notes=tuple(notes),
    )
