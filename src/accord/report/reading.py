"""The report's inputs: which files of a run are read, and their content."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from accord.data.write import ResponseRow, read_responses
from accord.errors import DataError
from accord.measure.audits.document import AuditDocument
from accord.runs import read_metrics
from accord.settings.stages import Contestant, ReportSettings

AUDIT_FILES = ("audit.json", "redteam.json", "probe.json")
_NOT_STAGES = frozenset({"model", "checkpoints", "reference"})
_MAX_DEPTH = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """The content of a stage's folder: its settings, its manifest, its metrics. A field is empty
    where its file is absent."""

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
    """Everything that was read. `answers` has each contestant's rows of responses.jsonl by name,
    `rounds` the content of each rounds.json by its stage's name, and `audits` every probe.json,
    audit.json and redteam.json with its path. The paths are those of `evaluation` and `ratings`."""

    run: Path
    manifest: Mapping[str, Any]
    stages: tuple[StageRecord, ...]
    contestants: tuple[Contestant, ...]
    evaluation: Mapping[str, Any] | None
    ratings: Mapping[str, Any] | None
    answers: Mapping[str, Sequence[ResponseRow]] = field(default_factory=dict)
    rounds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluation_path: Path | None = None
    ratings_path: Path | None = None
    audits: tuple[tuple[Path, AuditDocument], ...] = ()


def read_inputs(settings: ReportSettings) -> ReportInputs:
    """Read what the settings name, and search the run's folder for what they leave out.

    Without `contestants`, those of the last stage that had any are used; without `evaluation` or
    `ratings`, the last file of that kind written below the run's folder. Raises DataError where
    the run's folder or a named file does not exist or can't be read, and for a run with nothing
    to report.
    """
    run = Path(settings.run)
    if not run.is_dir():
        raise DataError(
            f"There is no run at {str(run)!r} (key `run`). Name the folder that a run wrote to."
        )
    all_stages = _read_stages(run)
    contestants = tuple(settings.contestants) or _last_contestants(all_stages)
    named = bool(settings.contestants)
    stages = [stage for stage in all_stages if stage.kind != "report"]  # the page being written
    read = {stage.folder.resolve() for stage in stages}
    trained = (Path(c.train) for c in contestants if c.train is not None)
    stages += [_read_stage(f) for f in trained if f.is_dir() and f.resolve() not in read]
    evaluation = _result_path(settings.evaluation, run, "evaluation.json")
    ratings = _result_path(settings.ratings, run, "ratings.json")
    inputs = ReportInputs(
        run=run,
        manifest=_read_optional(run / "manifest.json"),
        stages=tuple(stages),
        contestants=contestants,
        evaluation=_read_result(evaluation, "evaluation"),
        ratings=_read_result(ratings, "ratings"),
        evaluation_path=evaluation,
        ratings_path=ratings,
        answers={
            c.name: _read_named(c.responses, read_responses, f"contestants.{c.name}.responses")
            for c in contestants
            if named or Path(c.responses).is_file()
        },
        rounds={
            stage.name: _read_json(stage.folder / "rounds.json")
            for stage in stages
            if (stage.folder / "rounds.json").is_file()
        },
        audits=tuple(_read_audits(run)),
    )
    measured = inputs.evaluation or inputs.ratings or inputs.audits
    if not (inputs.stages or measured or inputs.answers):
        raise DataError(
            f"There is nothing to report in {str(run)!r}: no stage.json, metrics.jsonl, "
            "evaluation.json, ratings.json or audit.json below it. Name the folder that a run "
            "wrote to."
        )
    return inputs


def _read_stages(run: Path) -> list[StageRecord]:
    """The stages in and below the run's folder, in the order in which they ran."""
    marks = ("stage.json", "metrics.jsonl")
    folders = [f for f in _stage_folders(run) if any((f / mark).is_file() for mark in marks)]
    stages = [_read_stage(folder) for folder in folders]
    return sorted(stages, key=lambda stage: (_start_time(stage), str(stage.folder)))


def _read_stage(folder: Path) -> StageRecord:
    stage = _read_optional(folder / "stage.json")
    manifest = _read_optional(folder / "manifest.json")
    metrics = folder / "metrics.jsonl"
    kind = str(stage.get("method") or stage.get("stage") or ("train" if metrics.exists() else ""))
    settings = stage.get("settings") or manifest.get("settings")
    rows = read_metrics(metrics) if metrics.is_file() else []
    seconds = stage.get("seconds")
    if not isinstance(seconds, int | float):
        seconds = sum(float(row.get("seconds") or 0) for row in rows) or None
    return StageRecord(
        folder=folder,
        name=str(stage.get("name") or folder.name),
        kind=kind,
        settings=settings if isinstance(settings, Mapping) else {},
        seconds=seconds,
        manifest=manifest,
        data={name: _read_optional(folder / f"{name}.json") for name in ("data", "eval_data")},
        metrics=tuple(rows),
        health=_read_health(folder / "health.json"),
    )


def _start_time(stage: StageRecord) -> str:
    finished = _read_optional(stage.folder / "stage.json").get("finished")
    return str(stage.manifest.get("started") or finished or "")


def _last_contestants(stages: Sequence[StageRecord]) -> tuple[Contestant, ...]:
    for stage in reversed(stages):
        contestants = stage.settings.get("contestants")
        if isinstance(contestants, list) and contestants:
            try:
                return tuple(Contestant.model_validate(value) for value in contestants)
            except ValueError:  # written by another version; an earlier stage may be readable
                continue
    return ()


def _result_path(named: str | None, run: Path, name: str) -> Path | None:
    """The named file, or the last of this name that was written below the run's folder."""
    if named is not None:
        return Path(named)
    paths = [f / name for f in _stage_folders(run) if (f / name).is_file()]
    return max(paths, key=lambda path: (path.stat().st_mtime_ns, str(path)), default=None)


def _read_result(path: Path | None, key: str) -> Mapping[str, Any] | None:
    return None if path is None else _read_named(str(path), _read_json, key)


def _read_audits(run: Path) -> Iterator[tuple[Path, AuditDocument]]:
    """The audits of the run in the order of `AUDIT_FILES`, then of their folders' names."""
    folders = sorted(_stage_folders(run))
    for name in AUDIT_FILES:
        for path in (folder / name for folder in folders):
            if path.is_file():
                try:
                    yield path, AuditDocument.from_json(_read_json(path))
                except (KeyError, TypeError, ValueError) as error:
                    raise DataError(
                        f"{path} does not hold audits of this version ({error!r}). Run the command "
                        "that writes it again, or move it out of the run's folder."
                    ) from error


def _stage_folders(run: Path) -> Iterator[Path]:
    """The folder and those below it that may be stages', without models and checkpoints."""
    for folder, subfolders, _ in os.walk(run):
        depth = len(Path(folder).relative_to(run).parts)
        inner = sorted(f for f in subfolders if not f.startswith(".") and f not in _NOT_STAGES)
        subfolders[:] = inner if depth < _MAX_DEPTH else []
        yield Path(folder)


def _read_named(path: str, read: Callable[[Path], T], key: str) -> T:
    if not Path(path).is_file():
        raise DataError(
            f"There is no file {path!r} (key `{key}`). Run the stage that writes it, or leave the "
            "key out."
        )
    return read(Path(path))


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


def _read_health(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The remarks in health.json. A broken file is skipped: a report does not fail for remarks."""
    if not path.is_file():
        return ()
    try:
        remarks = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return ()
    if not isinstance(remarks, list):
        return ()
    return tuple(remark for remark in remarks if isinstance(remark, dict))


def _read_optional(path: Path) -> Mapping[str, Any]:
    return _read_json(path) if path.is_file() else {}
