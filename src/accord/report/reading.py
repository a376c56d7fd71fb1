"""What the report is made from: the files of a run, found and read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError
from accord.runs import read_metrics
from accord.settings.stages import Contestant, ReportSettings

_NOT_STAGES = frozenset({"model", "checkpoints", "reference"})
_MAX_DEPTH = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's folder: what it was told, and what became of it. Empty where a file is absent."""

    folder: Path
    name: str
    kind: str
    settings: Mapping[str, Any]
    seconds: float | None
    manifest: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    health: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything read. `answers` holds each contestant's lines of responses.jsonl, by name, and
    `rounds` the content of each rounds.json by its stage's name."""

    run: Path
    manifest: Mapping[str, Any]
    stages: tuple[Stage, ...]
    contestants: tuple[Contestant, ...]
    evaluation: Mapping[str, Any] | None
    ratings: Mapping[str, Any] | None
    answers: Mapping[str, Sequence[ResponseRow]] = field(default_factory=dict)
    rounds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_inputs(settings: ReportSettings) -> ReportInputs:
    """Read what the settings name, and find in the run's folder what they leave out.

    Left-out contestants are those of the last stage that had any; a left-out evaluation.json or
    ratings.json is the last one written below the run's folder. Raises DataError where the run's
    folder or a named file isn't there or can't be read, and for a run with nothing to tell.
    """
    run = Path(settings.run)
    if not run.is_dir():
        raise DataError(
            f"There is no run at {str(run)!r} (key `run`). Name the folder that a run wrote to."
        )
    found = _stages(run)
    contestants = tuple(settings.contestants) or _contestants(found)
    named = bool(settings.contestants)
    stages = [stage for stage in found if stage.kind != "report"]  # not the page about itself
    known = {stage.folder.resolve() for stage in stages}
    trained = (Path(c.train) for c in contestants if c.train is not None)
    stages += [_stage(f) for f in trained if f.is_dir() and f.resolve() not in known]
    inputs = ReportInputs(
        run=run,
        manifest=_optional(run / "manifest.json"),
        stages=tuple(stages),
        contestants=contestants,
        evaluation=_result(settings.evaluation, run, "evaluation.json", "evaluation"),
        ratings=_result(settings.ratings, run, "ratings.json", "ratings"),
        answers={
            c.name: _read(c.responses, read_responses, f"contestants.{c.name}.responses")
            for c in contestants
            if named or Path(c.responses).is_file()
        },
        rounds={
            stage.name: _read_json(stage.folder / "rounds.json")
            for stage in stages
            if (stage.folder / "rounds.json").is_file()
        },
    )
    if not (inputs.stages or inputs.evaluation or inputs.ratings or inputs.answers):
        raise DataError(
            f"There is nothing to report in {str(run)!r}: no stage.json, metrics.jsonl, "
            "evaluation.json or ratings.json below it. Name the folder that a run wrote to."
        )
    return inputs


def _stages(run: Path) -> list[Stage]:
    """The stages below a run's folder (or the run itself, if it is one), in the order they ran."""
    marks = ("stage.json", "metrics.jsonl")
    found = [_stage(f) for f in _folders(run) if any((f / mark).is_file() for mark in marks)]
    return sorted(found, key=lambda stage: (_began(stage), str(stage.folder)))


def _stage(folder: Path) -> Stage:
    stage, manifest = _optional(folder / "stage.json"), _optional(folder / "manifest.json")
    metrics = folder / "metrics.jsonl"
    kind = str(stage.get("method") or stage.get("stage") or ("train" if metrics.exists() else ""))
    settings = stage.get("settings") or manifest.get("settings")
    rows = read_metrics(metrics) if metrics.is_file() else []
    seconds = stage.get("seconds")
    if not isinstance(seconds, int | float):
        seconds = sum(float(row.get("seconds") or 0) for row in rows) or None
    return Stage(
        folder=folder,
        name=str(stage.get("name") or folder.name),
        kind=kind,
        settings=settings if isinstance(settings, Mapping) else {},
        seconds=seconds,
        manifest=manifest,
        data={name: _optional(folder / f"{name}.json") for name in ("data", "eval_data")},
        metrics=tuple(rows),
        health=_health(folder / "health.json"),
    )


def _began(stage: Stage) -> str:
    finished = _optional(stage.folder / "stage.json").get("finished")
    return str(stage.manifest.get("started") or finished or "")


def _contestants(stages: Sequence[Stage]) -> tuple[Contestant, ...]:
    for stage in reversed(stages):
        told = stage.settings.get("contestants")
        if isinstance(told, list) and told:
            try:
                return tuple(Contestant.model_validate(one) for one in told)
            except ValueError:  # written by another version; the others may be readable
                continue
    return ()


def _result(given: str | None, run: Path, name: str, key: str) -> Mapping[str, Any] | None:
    if given is not None:
        return _read(given, _read_json, key)
    found = [f / name for f in _folders(run) if (f / name).is_file()]
    if not found:
        return None
    return _read_json(max(found, key=lambda path: (path.stat().st_mtime_ns, str(path))))


def _folders(run: Path) -> Iterator[Path]:
    """The folder and those below it that may be stages', none of a model's or a checkpoint's."""
    for place, folders, _ in os.walk(run):
        depth = len(Path(place).relative_to(run).parts)
        inner = sorted(f for f in folders if not f.startswith(".") and f not in _NOT_STAGES)
        folders[:] = inner if depth < _MAX_DEPTH else []
        yield Path(place)


def _read(place: str, read: Callable[[Path], T], key: str) -> T:
    if not Path(place).is_file():
        raise DataError(
            f"There is no file {place!r} (key `{key}`). Run the stage that writes it, or leave the "
            "key out."
        )
    return read(Path(place))


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} can't be read as JSON: {error}. Run the stage that writes it again."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object. Run the stage that writes it again.")
    return value


def _health(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return ()  # remarks, which the numbers beside them can tell as well
    return tuple(one for one in told if isinstance(one, dict)) if isinstance(told, list) else ()


def _optional(path: Path) -> Mapping[str, Any]:
    return _read_json(path) if path.is_file() else {}
