"""Several processes train on the same rows of a store, whatever is written to it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies.forked import run_forked

from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError
from accord.learn.loop.processes import processes
from accord.learn.offline import dataset_rows, prepared
from accord.lm.tokens import encode_chunks
from tests.learn.offline.test_chunked_rows import check_all, make_settings, run
from tests.learn.offline.test_streamed_stores import fill
from tests.learn.toys.files import read_jsonl
from tests.learn.toys.saved import train


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """A store that is large, has no digest as one in a database, and to which someone adds verdicts
    as soon as the main process has read it."""
    path = fill(tmp_path / "store.db")
    real = dataset_rows.encode_in_chunks

    def add_afterwards(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        if processes().is_main:
            with PreferenceStore.open(path) as opened:
                opened.add_verdicts([PairVerdict(4, 5, "b", f"late {i}") for i in range(3)])
                opened.add_verdicts([PairVerdict(7, 9, "b", "late")])
        return found

    def make_large() -> str:
        monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(prepared, "MIN_BYTES", 1)
        monkeypatch.setattr(prepared, "_store_digest", lambda path: None)
        monkeypatch.setattr(dataset_rows, "STREAMED_BYTES", 1)
        monkeypatch.setattr(dataset_rows, "encode_in_chunks", add_afterwards)
        return path

    return make_large


@pytest.mark.slow
def test_the_others_read_the_rows_of_the_main_process(
    store: Callable[[], str], tmp_path: Path
) -> None:
    one = run(tmp_path, "dpo", "one", dataset=str(tmp_path / "store.db"))
    settings = make_settings(tmp_path, "dpo", "two", dataset=store(), per_device_train_batch_size=2)
    run_forked(2, lambda rank: check_all(train("dpo", settings)), tmp_path / "log")
    losses = [row["loss"] for row in read_jsonl(tmp_path / "two/metrics.jsonl")]
    assert losses == pytest.approx([step.metrics["loss"] for step in one], abs=1e-5)


@pytest.mark.slow
def test_different_rows_are_refused_by_all(
    store: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, "dpo", "two", dataset=store())
    for module in (prepared, encode_chunks):  # no index and no chunks for the others
        monkeypatch.setattr(module, "cache_of", lambda encoding: None)

    def work(rank: int) -> None:
        with pytest.raises(DataError, match="have read different rows from"):
            train("dpo", settings)

    run_forked(2, work, tmp_path / "log")
