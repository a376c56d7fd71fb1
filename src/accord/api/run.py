"""A training run from Python: its steps as they are taken, and what it leaves."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accord.errors import SettingsError
from accord.learn.loop.card import model_card
from accord.learn.loop.fit import StepResult
from accord.learn.loop.in_memory import InMemory
from accord.learn.loop.processes import processes
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.lm.in_memory import mark_saved
from accord.lm.load import save_model
from accord.lm.model import LanguageModel
from accord.pipeline.grading import answer_grader
from accord.pipeline.outputs import OUTPUTS, RECORDS, existing
from accord.runs import lock_folder, read_manifest, record_run, write_json_atomic
from accord.settings.training import TrainSettings

SHOWN = ("loss", "rewards/accuracies", "objective/scores", "objective/kl")


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training run: the trained model, a row of metrics a step, and the settings.

    `metrics` has the keys of metrics.jsonl, which are TRL's names, and `step`. `output_dir` is
    None for a run in memory. `data` reports which rows were used and which were dropped, and why;
    `health` holds remarks on a run that was taken to its end.
    """

    method: str
    model: LanguageModel
    metrics: list[dict[str, float]]
    settings: TrainSettings
    output_dir: Path | None = None
    data: dict[str, Any] = field(default_factory=dict)
    health: list[dict[str, str]] = field(default_factory=list)

    def save(self, folder: str | Path) -> Path:
        """Write the model to `folder/model`, which loads in transformers or peft, with the
        metrics and settings beside it; returns the model's folder.

        Adapters on a base that no folder holds are saved merged, as a full model; on a base with
        another adapter merged into it, both are saved as one.

        Raises SettingsError where the folder has one of these already, StorageError where it can't
        be written.
        """
        folder = Path(folder)
        check_unused(folder, ("model", "metrics.jsonl", "settings.json"))
        folder.mkdir(parents=True, exist_ok=True)
        card = model_card(self.model, self.method, self.settings)
        lm = deepcopy(self.model) if self.model.is_peft and self.model.unsaved else self.model
        save_model(lm, folder / "model", card=card, dtype=self.settings.save_dtype)
        mark_saved(self.model, folder / "model")
        lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
        (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
        write_json_atomic(folder / "settings.json", self.settings.model_dump(mode="json"))
        return folder / "model"

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else {}
        shown = ", ".join(f"{name} {last[name]:.4g}" for name in SHOWN if name in last)
        where = "in memory" if self.output_dir is None else str(self.output_dir)
        return f"Run({self.method}, {len(self.metrics)} steps, {shown or 'no metrics'}, {where})"


class Steps(Iterator[StepResult]):
    """A training loop whose caller takes the steps: each step that it yields has been taken.

    `model` is the model in training. Closing the iterator (or leaving a `with` block) ends the
    run: with `output_dir` a checkpoint is written, and the same call resumes from it.
    """

    def __init__(
        self, method: str, model: LanguageModel, settings: TrainSettings, memory: InMemory
    ) -> None:
        self.method, self.model, self.settings = method, model, settings
        self.metrics: list[dict[str, float]] = []
        self.data: dict[str, Any] = {}
        self.health: list[dict[str, str]] = []
        self.output_dir = Path(settings.output_dir) if memory.save_model else None
        self._stack = ExitStack()
        used = settings
        if self.output_dir is None:
            needs_folder = settings.changed("push_to_hub", "report_to")
            if needs_folder is not None:
                raise SettingsError(
                    f"`{needs_folder}` needs a run with a folder. Pass output_dir=…, or leave it "
                    f"out."
                )
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="accord-"))
            used = settings.model_copy(update={"output_dir": folder, "save_steps": 10**9})
        else:
            if processes().is_main:
                self._stack.enter_context(lock_folder(self.output_dir))
            record = record_run(settings.output_dir, settings=settings, seed=settings.seed)
            self._stack.enter_context(record)
        self._folder = Path(used.output_dir)
        train: Any = train_online if method in ONLINE else train_offline
        grade = answer_grader(used)
        self._steps: Generator[StepResult, None, LanguageModel] = train(
            method, used, memory, grade=grade
        )

    def __next__(self) -> StepResult:
        try:
            result = next(self._steps)
        except StopIteration as end:
            if end.value is not None:  # None where the loop was closed before
                self.model = end.value
                self._finish()
            raise
        except BaseException as error:
            self._leave(error)
            raise
        self.metrics.append({"step": result.step, **result.metrics})
        return result

    def _finish(self) -> None:
        if self.output_dir is not None:
            mark_saved(self.model, self.output_dir / "model")
        self._read_reports()
        self._stack.close()

    def _read_reports(self) -> None:
        for name in ("data", "health"):
            path = self._folder / f"{name}.json"
            if path.is_file():
                setattr(self, name, json.loads(path.read_text(encoding="utf-8")))

    def _leave(self, error: BaseException) -> None:
        self._read_reports()
        with suppress(type(error)):  # the exit callbacks see the error, and raise it again
            self._stack.__exit__(type(error), error, error.__traceback__)

    def close(self) -> None:
        """End the run after the present step; the model keeps the steps taken."""
        self._steps.close()
        self._leave(GeneratorExit())

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def result(self) -> Run:
        """The run so far: the steps that were taken."""
        return Run(
            self.method,
            self.model,
            list(self.metrics),
            self.settings,
            self.output_dir,
            self.data,
            self.health,
        )


def check_unused(folder: Path, names: Sequence[str]) -> None:
    """Raise SettingsError where a folder holds the model of a finished run, or has something of
    the names that will be written."""
    if os.path.lexists(folder / "model"):
        raise SettingsError(
            f"{folder} holds a finished run ({folder / 'model'}). Name another folder, or remove "
            f"it to train again."
        )
    in_the_way = existing(folder, names)
    if in_the_way:
        raise SettingsError(
            f"{in_the_way[0]} would be replaced. Move it away, or name another folder."
        )


def check_resumable(folder: Path) -> None:
    """Raise SettingsError where a run can't begin or resume in a folder: it holds a finished run,
    a stage of the command line, or what no run of accord has recorded."""
    manifest = read_manifest(folder)
    is_run = manifest is not None and not (folder / "stage.json").exists()
    check_unused(folder, () if is_run else [*RECORDS, *OUTPUTS["train"]])
