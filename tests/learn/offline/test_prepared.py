"""A second start on a large data set reads an index, and neither its rows nor their text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accord.learn.offline import dataset_rows, prepared, rows
from accord.lm.tokens import encode_chunks
from accord.lm.tokens.encode import Encoding
from tests.learn.offline.test_chunked_rows import PAIRS, run
from tests.learn.toys.files import write_jsonl
from tests.learn.toys.metrics import without_seconds


@pytest.fixture(autouse=True)
def small_sets_are_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encode_chunks, "CHUNK_RECORDS", 3)
    monkeypatch.setattr(rows, "MIN_RECORDS", 4)
    monkeypatch.setattr(prepared, "MIN_BYTES", 1)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def read_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data sets whose rows are read, run after run."""
    names: list[str] = []
    real = dataset_rows.read_datasets

    def recorded(settings: Any, kinds: Any, memory: Any) -> Any:
        read = real(settings, kinds, memory)
        names.extend(read)
        return read

    monkeypatch.setattr(dataset_rows, "read_datasets", recorded)
    return names


def test_a_second_start_reads_no_rows(tmp_path: Path, read_names: list[str]) -> None:
    first = run(tmp_path, "dpo", "first")
    assert read_names == ["dataset", "eval_dataset"]
    read_names.clear()
    second = run(tmp_path, "dpo", "second", learning_rate=1e-3)
    assert read_names == []
    assert [without_seconds(s.metrics) for s in second] == [
        without_seconds(s.metrics) for s in first
    ]
    for name in ("data.json", "eval_data.json"):
        reports = [json.loads((tmp_path / n / name).read_text()) for n in ("first", "second")]
        assert reports[0] == reports[1]
    # Another method that reads the same kind has other notes, and takes the same chunks.
    chunks = sorted((tmp_path / "cache/tokens").iterdir())
    run(tmp_path, "ipo", "third")
    assert read_names == ["dataset", "eval_dataset"]
    assert sorted((tmp_path / "cache/tokens").iterdir()) == chunks


Overrides = Callable[[Path], dict[str, Any]]


def mixed(weight: float) -> Overrides:
    return lambda folder: {
        "mixture": [{"dataset": write_jsonl(folder / "more.jsonl", PAIRS[2:8]), "weight": weight}]
    }


def fixed(**overrides: Any) -> Overrides:
    return lambda folder: overrides


ANYWHERE: dict[str, Any] = {"max_samples": 8, "samples_from": "anywhere"}
CHANGES: dict[str, tuple[Overrides, Overrides]] = {
    "limits": (fixed(), fixed(max_length=40)),
    "max_samples": (fixed(max_samples=8), fixed(max_samples=7)),
    "max_eval_samples": (fixed(max_eval_samples=5), fixed(max_eval_samples=4)),
    "samples_from": (fixed(max_samples=8), fixed(**ANYWHERE)),
    "seed": (fixed(**ANYWHERE), fixed(**ANYWHERE, seed=1)),
    "mixture": (fixed(), mixed(1.0)),
    "weight": (mixed(1.0), mixed(0.5)),
    "dialogue_text": (fixed(), fixed(dialogue_text="keep")),
    "columns": (fixed(), fixed(columns={"chosen": "rejected", "rejected": "chosen"})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_choice_of_rows_is_read_again(
    change: str, tmp_path: Path, read_names: list[str]
) -> None:
    before, after = (overrides(tmp_path) for overrides in CHANGES[change])
    name = "eval_dataset" if change == "max_eval_samples" else "dataset"
    run(tmp_path, "dpo", "first", **before)
    read_names.clear()
    run(tmp_path, "dpo", "second", **after)
    assert name in read_names
    read_names.clear()
    third = run(tmp_path, "dpo", "third", **after)
    # What has fewer rows than a chunk is worth is read each time.
    assert set(read_names) <= ({"eval_dataset"} if change == "max_eval_samples" else set())
    # What the index gives is what reading gives.
    os.environ["ACCORD_CACHE"] = str(tmp_path / "empty")
    fourth = run(tmp_path, "dpo", "fourth", **after)
    assert name in read_names
    assert [without_seconds(s.metrics) for s in third] == [
        without_seconds(s.metrics) for s in fourth
    ]


def test_a_changed_file_is_read_again(tmp_path: Path, read_names: list[str]) -> None:
    run(tmp_path, "dpo", "first")
    read_names.clear()
    PAIRS.append({**PAIRS[0], "chosen": "sat on the far mat"})
    try:
        run(tmp_path, "dpo", "second")
    finally:
        PAIRS.pop()
    assert read_names == ["dataset"]
    report = json.loads((tmp_path / "second/data.json").read_text())
    assert report["read"]["rows"] == 11


@pytest.mark.parametrize("damage", ["chunk", "index", "sources"])
def test_what_is_missing_or_damaged_is_read_again(
    damage: str, tmp_path: Path, read_names: list[str]
) -> None:
    first = run(tmp_path, "sft", "first")
    read_names.clear()
    pattern = {"chunk": "*.arrow", "index": "index.json", "sources": "sources.safetensors"}[damage]
    for path in (tmp_path / "cache").rglob(pattern):
        path.write_bytes(b"{")
    second = run(tmp_path, "sft", "second")
    assert read_names == ["dataset", "eval_dataset"]
    assert [without_seconds(s.metrics) for s in second] == [
        without_seconds(s.metrics) for s in first
    ]


def test_a_small_set_has_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_names: list[str]
) -> None:
    monkeypatch.setattr(prepared, "MIN_BYTES", 1 << 20)
    run(tmp_path, "sft", "first")
    run(tmp_path, "sft", "second")
    assert read_names == ["dataset", "eval_dataset"] * 2
    assert not (tmp_path / "cache/rows").exists()


def test_a_cache_that_can_not_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_names: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    run(tmp_path, "sft", "first")
    run(tmp_path, "sft", "second")
    assert read_names == ["dataset", "eval_dataset"] * 2


def test_of_a_second_start_no_record_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, "sft", "first")
    monkeypatch.setattr(Encoding, "encode", None)
    second = run(tmp_path, "sft", "second")
    assert [without_seconds(s.metrics) for s in second] == [
        without_seconds(s.metrics) for s in first
    ]


def test_other_code_reads_the_rows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_names: list[str]
) -> None:
    (tmp_path / "code.py").write_text("# another version of the reader")
    run(tmp_path, "sft", "first")
    monkeypatch.setattr(prepared, "_READING", [*prepared._READING, tmp_path / "code.py"])
    read_names.clear()
    run(tmp_path, "sft", "second")
    assert read_names == ["dataset", "eval_dataset"]
