"""What may change between a stop and going on, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.errors import SettingsError, StorageError
from accord.learn.loop.checkpoints import load_checkpoint, save_checkpoint
from accord.learn.loop.stage import run_with_checkpoints
from accord.learn.loop.state import FitState, TrainState
from accord.settings.identity import identity_settings
from accord.settings.preferences import DpoSettings
from accord.settings.training import TrainSettings


def dpo_settings(**more: Any) -> DpoSettings:
    return DpoSettings(model="m", dataset="d", output_dir="out", **more)


@pytest.mark.parametrize(
    ("loss_type", "decides"),
    [
        ("sigmoid", False),  # each pair by itself, however the step is split
        (["sigmoid", "sft"], False),
        ("aot", True),  # sorts the margins of a pass
        ("aot_unpaired", True),
        ("bco_pair", True),  # takes off the mean of a pass
        (["sigmoid", "bco_pair"], True),
    ],
)
def test_the_size_of_a_pass_decides_where_a_loss_looks_at_all_of_it(
    loss_type: Any, decides: bool
) -> None:
    whole = dpo_settings(loss_type=loss_type)
    split = dpo_settings(loss_type=loss_type, max_tokens_per_forward=64)
    assert (identity_settings(whole) != identity_settings(split)) == decides


def test_another_size_of_a_pass_does_not_go_on_under_such_a_loss(tmp_path: Path) -> None:
    settings = dpo_settings(loss_type="aot")
    saved = settings.model_dump(mode="json")
    save_checkpoint(tmp_path, TrainState({}, FitState(), step=2), saved, keep=1)
    with pytest.raises(SettingsError, match="max_tokens_per_forward was None and is 64"):
        load_checkpoint(
            tmp_path,
            TrainState({}, FitState()),
            dpo_settings(loss_type="aot", max_tokens_per_forward=64),
            resume=True,
        )
    assert load_checkpoint(tmp_path, TrainState({}, FitState()), settings, resume=True)


def test_processes_that_see_other_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TwoProcesses:
        is_main = True

        def run_on_all(self, work: Callable[[], int]) -> list[int]:
            return [work(), 4]

    monkeypatch.setattr("accord.learn.loop.stage.processes", TwoProcesses)
    settings = TrainSettings(model="m", dataset="d", output_dir=str(tmp_path))
    with pytest.raises(StorageError, match="they resume after the steps 0, 4"):
        next(run_with_checkpoints(lambda state: iter(()), TrainState({}, FitState()), settings))
