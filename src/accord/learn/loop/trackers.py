"""Trackers (TensorBoard, W&B, trackio) that receive the rows of metrics.jsonl as well.

A tracker never ends a run: where it fails, this is logged once, and it receives nothing more. A
resumed run continues the tracker's run, and does not send steps again that were sent before.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accord.errors import SettingsError
from accord.runs import write_json_atomic
from accord.settings.training import TrainSettings

log = logging.getLogger(__name__)

FILE = "trackers.json"
_FAILURES = (Exception, SystemExit)  # whatever a tracker raises, the run goes on


class _Sink(Protocol):
    """Where a tracker's rows go."""

    def send(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


@dataclass
class Tracker:
    """One tracker of a run. `last_step` is the last step that was sent, in this or an earlier
    process, which `record` saves before a row is sent: a killed process may lose one row, and
    sends none twice."""

    name: str
    record: Callable[[int], None]
    last_step: int
    sink: _Sink | None

    def log(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row of metrics.jsonl, under the same names."""
        step = row["step"]
        if self.sink is None or step <= self.last_step:
            return
        numbers = {
            name: float(value)
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float)
        }
        try:
            self.record(step)
            self.last_step = step
            self.sink.send(numbers, step)
        except _FAILURES as error:
            _warn(self.name, error)
            self.sink = None

    def finish(self) -> None:
        """End the tracker's run, or interrupt it: a later process continues it."""
        if self.sink is not None:
            try:
                self.sink.close()
            except _FAILURES as error:
                _warn(self.name, error)
            self.sink = None


def check_trackers(settings: TrainSettings) -> None:
    """Raise SettingsError where the package of a tracker is not installed."""
    for name in settings.report_to:
        if importlib.util.find_spec(name) is None:
            raise SettingsError(
                f"report_to={name} needs the package `{name}`, which is not installed. Install it "
                f"with `pip install 'accord[{name}]'`, or leave {name} out of report_to."
            )


def open_trackers(settings: TrainSettings, output_dir: Path) -> list[Tracker]:
    """The trackers of `report_to`, which continue the runs that an earlier process of this run
    began. One that can't be opened is logged and left out."""
    if not settings.report_to:
        return []
    path = output_dir / FILE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    trackers: list[Tracker] = []
    for name in settings.report_to:
        entry = state.setdefault(name, {"id": uuid.uuid4().hex[:12], "last_step": 0})

        def record(step: int, entry: dict[str, Any] = entry) -> None:
            entry["last_step"] = step
            write_json_atomic(path, state)

        run_name = settings.run_name or f"{output_dir.as_posix().strip('/')}"
        try:
            sink = _SINKS[name](settings, run_name, entry["id"], output_dir)
        except _FAILURES as error:
            _warn(name, error)
            continue
        trackers.append(Tracker(name, record, int(entry["last_step"]), sink))
    return trackers


def _warn(name: str, error: BaseException) -> None:
    log.warning(
        "%s gets no more of this run: %s: %s. The run goes on, and metrics.jsonl has every row.",
        name,
        type(error).__name__,
        " ".join(str(error).split())[:300],
    )


class _TensorBoard:
    def __init__(
        self, settings: TrainSettings, run_name: str, run_id: str, output_dir: Path
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(output_dir / "tensorboard"))

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a killed process loses what is not written

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(
        self, settings: TrainSettings, run_name: str, run_id: str, output_dir: Path
    ) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=settings.project,
            name=run_name,
            id=run_id,
            resume="allow",
            config=settings.model_dump(mode="json"),
            dir=str(output_dir),
        )

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(
        self, settings: TrainSettings, run_name: str, run_id: str, output_dir: Path
    ) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=settings.project,
            name=f"{run_name}-{run_id}",  # a run is continued by its name
            resume="allow",
            config=settings.model_dump(mode="json"),
        )

    def send(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, Callable[[TrainSettings, str, str, Path], _Sink]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
