"""The first rows of a hub data set, streamed into a file."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest

from accord.data.hub_stream import first_hub_rows
from accord.data.read import read_records
from accord.errors import DataError


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The numbers of the rows that were taken from an endless data set."""
    numbers: list[int] = []
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))

    def rows() -> Iterator[dict[str, Any]]:
        for number in itertools.count():
            numbers.append(number)
            yield {"prompt": f"{number}?", "completion": "é\u2028", "n": np.int64(number)}

    give(monkeypatch, lambda: datasets.IterableDataset.from_generator(rows))
    name_version(monkeypatch, "a")
    return numbers


def give(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    def load(name: str, config: str | None, *, split: str | None, streaming: bool) -> Any:
        assert (name, streaming) == ("owner/name", True)
        return make() if split else {"train": make()}

    monkeypatch.setattr(datasets, "load_dataset", load)


def name_version(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def info(name: str, timeout: float) -> Any:
        if version is None:
            raise ConnectionError("offline")
        return SimpleNamespace(sha=version)

    monkeypatch.setattr(huggingface_hub, "dataset_info", info)


def test_only_the_rows_that_are_asked_for_are_taken(taken: list[int]) -> None:
    path = first_hub_rows("owner/name:train", 5)
    assert taken == [0, 1, 2, 3, 4]
    assert path.name.startswith("owner--name--train.first-5.")
    records, report = read_records(path, "sft")
    assert (len(records), report.used) == (5, 5)
    assert [json.loads(line)["n"] for line in path.read_text().split("\n")[:-1]] == taken


def test_an_earlier_runs_rows_are_used_again(
    taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = first_hub_rows("owner/name", 3)
    assert first_hub_rows("owner/name", 3) == path
    assert len(taken) == 3
    name_version(monkeypatch, "b")  # the hub has other rows now
    assert first_hub_rows("owner/name", 3) != path
    assert len(taken) == 6
    assert first_hub_rows("owner/name:train", 3) != first_hub_rows("owner/name:train", 2)


def test_without_the_hub_the_rows_that_are_here_are_used(
    taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = first_hub_rows("owner/name", 3)
    name_version(monkeypatch, None)
    assert first_hub_rows("owner/name", 3) == path
    assert len(taken) == 3


def test_a_connection_that_breaks_leaves_no_file(
    taken: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"prompt": "a"}
        raise ConnectionError("reset by peer")

    give(monkeypatch, broken)
    with pytest.raises(DataError, match="stopped after 1 rows: ConnectionError: reset by peer"):
        first_hub_rows("owner/name", 3)
    assert not list((tmp_path / "cache/streamed").iterdir())


def test_rows_that_cant_be_written_are_named(
    taken: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"prompt": "half \ud800"}
    give(monkeypatch, lambda: [bad, {"prompt": "a", "completion": "b"}])
    with caplog.at_level(logging.WARNING):
        path = first_hub_rows("owner/name", 3)
    assert len(read_records(path, "sft")[0]) == 1
    assert "1 rows are left out (the first: owner/name:train:1" in caplog.text
    give(monkeypatch, lambda: [bad])
    with pytest.raises(DataError, match="gave no row that can be used"):
        first_hub_rows("owner/name", 4)
