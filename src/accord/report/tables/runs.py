"""The page's tables about the run as data: its stages, and the rows that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.report.formatting import format_duration, format_time, visible
from accord.report.reading import StageRecord
from accord.settings.stage_kinds import METHOD_SETTINGS, STAGE_SETTINGS


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage with all its settings, and those that differ from the defaults."""

    name: str
    kind: str
    status: str
    started: str
    seconds: str
    changed: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]


def stage_line(stage: StageRecord) -> StageLine:
    """The stage's line in the table."""
    defaults = _default_settings(stage.kind)
    settings = {key: value for key, value in stage.settings.items() if value is not None}
    changed = {k: v for k, v in settings.items() if k != "output_dir" and defaults.get(k, ...) != v}
    status = str(stage.manifest.get("status") or "")
    return StageLine(
        name=visible(stage.name),
        kind=visible(stage.kind if stage.kind != stage.name else ""),
        status="" if status == "finished" else visible(status),
        started=format_time(stage.manifest.get("started")),
        seconds=format_duration(stage.seconds),
        changed=tuple((visible(key), _short_setting(value)) for key, value in changed.items()),
        settings=tuple((visible(key), _format_setting(value)) for key, value in settings.items()),
    )


def _default_settings(kind: str) -> Mapping[str, Any]:
    settings_class = METHOD_SETTINGS.get(kind) or STAGE_SETTINGS.get(kind)
    if not isinstance(settings_class, type):
        return {}
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in settings_class.model_fields.items()
        if not field.is_required()
    }


def _format_setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_format_setting(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_format_setting(inner) for inner in value)
    return visible(str(value))


def _short_setting(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > 2:
        return f"{len(value)} entries"
    text = _format_setting(value)
    return text if len(text) <= 60 else f"…{text[-58:]}" if "/" in text else f"{text[:58]}…"


@dataclass(frozen=True, slots=True)
class DataLine:
    """One data set: how many rows were read and used, and why others were not."""

    stage: str
    path: str
    rows: str
    used: str
    notes: tuple[str, ...]


def data_lines(stages: Sequence[StageRecord]) -> list[DataLine]:
    """A line for each data set that a training stage read."""
    return [
        _data_line(stage, read, data.get("encoded") or {})
        for stage in stages
        for data in stage.data.values()
        if (read := data.get("read"))
    ]


def _data_line(stage: StageRecord, read: Mapping[str, Any], encoded: Mapping[str, Any]) -> DataLine:
    notes = [
        f"{len(rows):,} dropped: {visible(str(reason))}"
        for reason, rows in (read.get("dropped") or {}).items()
    ]
    notes += [
        f"{count:,} dropped: {visible(str(reason))}"
        for reason, count in (encoded.get("dropped") or {}).items()
    ]
    notes += [
        f"{encoded[key]:,} {label}"
        for key, label in (("prompts_cut", "prompts cut"), ("responses_cut", "responses cut"))
        if encoded.get(key)
    ]
    notes += [visible(str(note)) for note in read.get("notes") or ()]
    used = encoded.get("used", read.get("used"))
    return DataLine(
        stage=visible(stage.name),
        path=visible(str(read.get("place", ""))),
        rows=f"{read.get('rows', 0):,}",
        used=f"{used:,}" if isinstance(used, int) else "–",
        notes=tuple(notes),
    )
