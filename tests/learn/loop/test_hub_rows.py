"""Hub data sets of a training stage: streamed in part, or indexed as files are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import ValidationError

from accord.errors import SettingsError
from accord.learn.loop import hub_rows
from accord.learn.loop.datasets import read_datasets
from accord.learn.loop.hub_rows import with_streamed_rows
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.offline import dataset_rows, prepared
from accord.settings.training import SftSettings
from tests.learn.toys.files import user_says, write_jsonl
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.saved import train
from tests.lm.toys import save_toy

ROWS = [{"prompt": user_says(f"the cat {i}"), "completion": "sat on " * i} for i in range(1, 13)]


def settings(**values: Any) -> SftSettings:
    base = {"model": "toy", "dataset": "owner/name", "output_dir": "out", "max_samples": 3}
    return SftSettings(**{**base, "streaming": True, **values})


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is streamed: each data set's name and the number of its rows."""
    seen: list[tuple[str, int]] = []

    def first(name: str, count: int) -> Path:
        seen.append((name, count))
        return Path(f"/cache/{name}")

    monkeypatch.setattr(hub_rows, "first_hub_rows", first)
    return seen


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples_from": "anywhere"}, "a random choice would download all of it"),
        ({"max_samples": None}, "set max_samples"),
        ({"eval_dataset": "owner/other"}, "set max_eval_samples"),
        ({"mixture": [{"dataset": "owner/other"}]}, "set max_samples of each source in mixture"),
    ],
)
def test_streaming_needs_the_number_of_rows(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**values)


def test_hub_data_sets_become_files(streamed: list[tuple[str, int]], tmp_path: Path) -> None:
    here = write_jsonl(tmp_path / "here.jsonl", ROWS)
    local = with_streamed_rows(
        settings(
            eval_dataset={"a": "owner/a", "here": here},
            max_eval_samples=2,
            mixture=[{"dataset": "owner/more", "max_samples": 5}],
        ),
        NOTHING,
    )
    assert local.dataset == "/cache/owner/name"
    assert local.eval_dataset == {"a": "/cache/owner/a", "here": here}
    assert [source.dataset for source in local.mixture or ()] == ["/cache/owner/more"]
    assert streamed == [("owner/name", 3), ("owner/a", 2), ("owner/more", 5)]
    one = with_streamed_rows(settings(eval_dataset="owner/a", max_eval_samples=2), NOTHING)
    assert one.eval_dataset == "/cache/owner/a"


def test_without_streaming_nothing_is_streamed(streamed: list[tuple[str, int]]) -> None:
    plain = settings(streaming=False)
    assert with_streamed_rows(plain, NOTHING) is plain
    assert not streamed


def test_streaming_without_a_hub_data_set_is_refused(
    streamed: list[tuple[str, int]], tmp_path: Path
) -> None:
    here = write_jsonl(tmp_path / "here.jsonl", ROWS)
    with pytest.raises(SettingsError, match=r"here\.jsonl none is one"):
        with_streamed_rows(settings(dataset=here), NOTHING)
    with pytest.raises(SettingsError, match="the rows are in memory"):
        read_datasets(settings(), {"dataset": "sft"}, InMemory(datasets={"dataset": ROWS}))
    assert not streamed


def test_a_large_hub_data_set_is_read_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps and report; a second run reads the index, another version the rows."""
    values: dict[str, Any] = {
        "model": save_toy(tmp_path / "toy"),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "streaming": False,
        "max_samples": None,
    }

    def run(name: str, dataset: str) -> tuple[list[dict[str, float]], dict[str, Any]]:
        folder = str(tmp_path / name)
        steps = train("sft", settings(**values, dataset=dataset, output_dir=folder))
        report = json.loads((tmp_path / name / "data.json").read_text())
        return [without_seconds(step.metrics) for step in steps], report["encoded"]

    expected = run("file", write_jsonl(tmp_path / "rows.jsonl", ROWS))
    given = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: given)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
    monkeypatch.setattr(dataset_rows, "encode_rows", None)
    assert run("hub", "owner/name:train") == expected
    read = dataset_rows.read_columns
    monkeypatch.setattr(dataset_rows, "read_columns", None)
    assert run("again", "owner/name:train") == expected
    monkeypatch.setattr(dataset_rows, "read_columns", read)
    given = datasets.Dataset.from_list(ROWS[:8])
    assert run("changed", "owner/name:train")[1]["records"] == 8
