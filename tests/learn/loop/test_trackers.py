"""Trackers: what they receive, how a resumed run continues, and that none ends a run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from accord.errors import SettingsError
from accord.learn.loop.trackers import check_trackers, open_trackers
from accord.learn.offline.train import train_offline
from accord.runs import read_metrics
from accord.settings.reading.load import build
from accord.settings.reading.located import COMMAND_LINE, LocatedMapping
from accord.settings.training import SftSettings
from tests.learn.toys.saved import SavedToys, train
from tests.learn.toys.settings import REQUIRED


class FakeTracker:
    """What both W&B and trackio have: init, and a run with log and finish."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.fail_at: int | None = None

    def init(self, **options: Any) -> FakeTracker:
        self.runs.append(options)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        if step == self.fail_at:
            raise ConnectionError("the server\nis gone")
        self.rows.append((step, numbers))

    def finish(self) -> None:
        self.finished += 1


class FakeWriter:
    """TensorBoard's SummaryWriter."""

    scalars: list[tuple[str, float, int]] = []  # noqa: RUF012 - of all writers of a test

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


Install = Callable[[str], FakeTracker]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a fake package in the place of a tracker's."""

    def put(name: str) -> FakeTracker:
        fake, module = FakeTracker(), ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.init = fake.init  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        if name == "tensorboard":
            writer = ModuleType("torch.utils.tensorboard")
            writer.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
            monkeypatch.setattr(FakeWriter, "scalars", [])
        return fake

    return put


def test_by_default_nothing_is_sent(toys: SavedToys, tmp_path: Path, install: Install) -> None:
    fake = install("wandb")
    train("sft", toys.settings("sft", "llama", tmp_path))
    assert fake.runs == []
    assert not (tmp_path / "trackers.json").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_receives_the_rows_of_the_metrics(
    name: str, toys: SavedToys, tmp_path: Path, install: Install
) -> None:
    fake = install(name)
    settings = toys.settings(
        "dpo",
        "llama",
        tmp_path,
        max_steps=3,
        report_to=name,
        run_name="first",
        project="cats",
        eval_dataset=toys.data("dpo"),
        eval_steps=2,
        logging_steps=2,
    )
    train("dpo", settings)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [step for step, _ in fake.rows] == [row["step"] for row in rows] == [2, 3]
    for (_, numbers), row in zip(fake.rows, rows, strict=True):
        assert numbers == {k: v for k, v in row.items() if k != "step"}
    assert "eval/rewards/accuracies" in fake.rows[0][1]
    (run,) = fake.runs
    assert run["project"] == "cats"
    assert run["name"].startswith("first")
    assert run["config"]["beta"] == 0.1
    assert fake.finished == 1


def test_tensorboard_has_the_names_of_the_metrics(
    toys: SavedToys, tmp_path: Path, install: Install
) -> None:
    install("tensorboard")
    train("sft", toys.settings("sft", "llama", tmp_path, max_steps=2, report_to="tensorboard"))
    losses = [(row["loss"], row["step"]) for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert [(v, s) for n, v, s in FakeWriter.scalars if n == "loss"] == losses
    assert (tmp_path / "tensorboard").is_dir()


def test_a_resumed_run_sends_no_step_twice_and_continues_the_same_run(
    toys: SavedToys, tmp_path: Path, install: Install
) -> None:
    fake = install("wandb")
    settings = toys.settings(
        "sft", "llama", tmp_path, max_steps=6, save_steps=2, report_to=["wandb"]
    )
    steps = train_offline("sft", settings)
    for _ in range(3):
        next(steps)
    # As if the process was killed after step 3: the generator is not closed.
    checkpoints = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert checkpoints == ["step-00000002"]
    train("sft", settings)
    assert [step for step, _ in fake.rows] == [1, 2, 3, 4, 5, 6]
    assert len({run["id"] for run in fake.runs}) == 1
    assert all(run["resume"] == "allow" for run in fake.runs)
    steps.close()


@pytest.mark.parametrize("error", [RuntimeError("no\nnetwork"), SystemExit(1)])
def test_a_tracker_that_does_not_start_is_logged_once(
    error: BaseException,
    toys: SavedToys,
    tmp_path: Path,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install("wandb")

    def fail(**options: Any) -> None:
        raise error

    monkeypatch.setattr(sys.modules["wandb"], "init", fail)
    settings = toys.settings("sft", "llama", tmp_path, max_steps=3, report_to=["wandb"])
    with caplog.at_level(logging.WARNING, logger="accord"):
        assert len(train("sft", settings)) == 3
    (message,) = [r.getMessage() for r in caplog.records if "wandb" in r.getMessage()]
    assert message.startswith(f"wandb gets no more of this run: {type(error).__name__}")
    assert "\n" not in message


def test_a_tracker_that_fails_does_not_end_the_run(
    toys: SavedToys, tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    fake, other = install("wandb"), install("trackio")
    fake.fail_at = 2
    settings = toys.settings("sft", "llama", tmp_path, max_steps=4, report_to=["wandb", "trackio"])
    with caplog.at_level(logging.WARNING, logger="accord"):
        assert len(train("sft", settings)) == 4
    assert [step for step, _ in fake.rows] == [1]
    assert [step for step, _ in other.rows] == [1, 2, 3, 4]
    messages = [r.getMessage() for r in caplog.records if "wandb" in r.getMessage()]
    assert len(messages) == 1
    assert "ConnectionError: the server is gone" in messages[0]
    assert (tmp_path / "model" / "config.json").is_file()


def test_a_number_that_is_not_finite_is_sent_as_such(tmp_path: Path, install: Install) -> None:
    fake = install("trackio")
    settings = SftSettings(**{**REQUIRED, "output_dir": str(tmp_path)}, report_to=["trackio"])
    (tracker,) = open_trackers(settings, tmp_path)
    tracker.log({"step": 1, "loss": float("inf"), "note": "text", "other": None})
    assert fake.rows == [(1, {"loss": float("inf")})]
    assert json.loads((tmp_path / "trackers.json").read_text())["trackio"]["last_step"] == 1


def test_a_package_that_is_not_installed_is_named_before_training(
    toys: SavedToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = SftSettings(**REQUIRED, report_to=["trackio"])
    with pytest.raises(SettingsError, match=r"pip install 'accord\[trackio\]'"):
        check_trackers(settings)
    with pytest.raises(SettingsError, match="report_to=trackio needs the package"):
        train("sft", toys.settings("sft", "llama", tmp_path, report_to=["trackio"]))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("value", "expected"), [("none", []), ("wandb", ["wandb"]), (["none"], []), (None, [])]
)
def test_one_name_or_none_as_in_transformers(value: Any, expected: list[str]) -> None:
    written = LocatedMapping({**REQUIRED, "report_to": value}, source=COMMAND_LINE)
    settings: Any = build(SftSettings, written, where="train sft")
    assert settings.report_to == expected


def test_an_unknown_tracker_is_refused() -> None:
    written = LocatedMapping({**REQUIRED, "report_to": "mlflow"}, source=COMMAND_LINE)
    with pytest.raises(SettingsError, match="`tensorboard`, `wandb` or `trackio`"):
        build(SftSettings, written, where="train sft")
