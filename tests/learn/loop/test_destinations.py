"""Training that uploads its model: checked before the first step, and never undone by the hub."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from accord.errors import RequestError, SettingsError, WorkError
from tests.learn.toys.saved import SavedToys, train

HUB = {"push_to_hub": True, "hub_model_id": "ada/cats"}


def test_the_repository_is_checked_before_and_the_model_uploaded_after(
    toys: SavedToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool, bool]] = []
    folder = tmp_path / "model"

    def create(name: str, *, private: bool) -> None:
        calls.append((name, private, folder.exists()))

    def upload(path: Path, name: str, *, private: bool) -> str:
        assert path == folder
        calls.append((name, private, (path / "README.md").is_file()))
        return "https://hub.example"

    monkeypatch.setattr("accord.learn.loop.destinations.create_repository", create)
    monkeypatch.setattr("accord.learn.loop.destinations.upload_model", upload)
    train("sft", toys.settings("sft", "llama", tmp_path, **HUB))
    assert calls == [("ada/cats", True, False), ("ada/cats", True, True)]


def test_without_a_token_no_step_is_taken(
    toys: SavedToys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accord.lm.hub.get_token", lambda: None)
    for method in ("sft", "ppo"):
        with pytest.raises(RequestError, match="no Hugging Face token"):
            train(method, toys.settings(method, "llama", tmp_path, **HUB))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_adapter_on_a_folder_is_refused_before_training(toys: SavedToys, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a folder that nobody else has"):
        train("sft", toys.settings("sft", "llama", tmp_path, lora={"r": 2}, **HUB))


def test_a_failed_upload_does_not_undo_the_run(
    toys: SavedToys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise WorkError("The hub can't be reached.")

    module = "accord.learn.loop.destinations"
    monkeypatch.setattr(f"{module}.create_repository", lambda name, private: None)
    monkeypatch.setattr(f"{module}.upload_model", fail)
    with caplog.at_level(logging.ERROR, logger="accord"):
        train("sft", toys.settings("sft", "llama", tmp_path, **HUB))
    assert (tmp_path / "model" / "config.json").is_file()
    assert not (tmp_path / "checkpoints").exists()
    (message,) = [r.getMessage() for r in caplog.records if r.name == module]
    assert f"`accord push {tmp_path / 'model'} ada/cats`" in message
