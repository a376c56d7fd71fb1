"""Digests, the metrics log and the manifest."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

import accord
from accord.errors import DataError
from accord.runs import MetricsLog, digest_json, digest_path, read_metrics, record_run
from accord.settings.training import SftSettings


def test_a_file_has_the_digest_that_sha256sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1: the digest of "abc".
    assert digest_path(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_has_the_digest_of_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    first = digest_path(folder)
    digest_a, digest_b = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
    listed = json.dumps([["a", digest_a], ["sub/b", digest_b]], separators=(",", ":"))
    assert first == hashlib.sha256(listed.encode()).hexdigest()
    copy = tmp_path / "elsewhere"
    folder.rename(copy)
    assert digest_path(copy) == first  # the folder's own name does not count
    (copy / "a").rename(copy / "c")
    assert digest_path(copy) != first
    (copy / "c").rename(copy / "a")
    (copy / "a").write_text("3")
    assert digest_path(copy) != first


def test_records_of_how_a_folder_was_written_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    first = digest_path(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_text("x")
    for name in ("metrics.jsonl", "manifest.json", "stage.json"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".model.partial-1234").mkdir()
    (tmp_path / ".model.partial-1234" / "x").write_text("x")
    assert digest_path(tmp_path) == first


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("1")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "blob")
    (folder / "up").symlink_to(folder)
    first = digest_path(folder)
    (tmp_path / "blob").write_text("2")
    assert digest_path(folder) != first


def test_rows_in_a_write_ahead_log_count(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as store:
        store.execute("pragma journal_mode=wal")
        store.execute("create table t (x)")
        store.commit()
        first = digest_path(path)
        store.execute("insert into t values (1)")
        store.commit()
        assert digest_path(path) != first
    store.close()


def test_a_missing_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none' does not exist\. Check the path"):
        digest_path(tmp_path / "none")


def test_equal_values_have_equal_digests() -> None:
    assert digest_json({"a": 1, "b": (2, 3)}) == digest_json({"b": [2, 3], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 1.5})
    assert digest_json({"a": "1"}) != digest_json({"a": 1})


def test_rows_of_metrics_can_be_read_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append({"step": 1, "loss": 0.5})
        assert read_metrics(path) == [{"step": 1, "loss": 0.5}]
        log.append({"step": 2, "loss": float("nan")})
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'


def test_truncation_removes_later_rows_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "eval/loss": 1}\n{"step": 3}\n{"st')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 2, 3]
    log = MetricsLog(path)
    log.truncate_after(2)
    log.append({"step": 3, "loss": 1})
    log.close()
    assert read_metrics(path) == [
        {"step": 1},
        {"step": 2},
        {"step": 2, "eval/loss": 1},
        {"step": 3, "loss": 1},
    ]


def test_a_row_after_a_torn_line_begins_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    with MetricsLog(path) as log:
        log.append({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_malformed_rows_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2 is not a row of metrics"):
        read_metrics(path)
    with pytest.raises(DataError, match="Name a training stage's folder"):
        read_metrics(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="needs an integer step, got None"):
        MetricsLog(path).append({"loss": 1})


def read_manifest(folder: Path) -> dict[str, object]:
    manifest: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_a_manifest_holds_everything_needed_to_repeat_a_run(tmp_path: Path) -> None:
    settings = SftSettings(model="m", dataset="d", output_dir=str(tmp_path), seed=3)
    with record_run(tmp_path, settings=settings, seed=3, inputs={"d": "abc"}):
        assert read_manifest(tmp_path)["status"] == "running"
    manifest = read_manifest(tmp_path)
    assert manifest["status"] == "finished"
    assert manifest["seed"] == 3
    assert manifest["inputs"] == {"d": "abc"}
    assert SftSettings.model_validate(manifest["settings"]) == settings
    versions, machine = manifest["versions"], manifest["machine"]
    assert isinstance(versions, dict)
    assert versions["accord"] == accord.__version__
    assert {"python", "torch", "transformers"} <= set(versions)
    assert isinstance(machine, dict)
    assert machine["cores"] >= 1
    assert str(manifest["started"]) <= str(manifest["finished"])


def test_a_manifest_records_how_each_attempt_ended(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), record_run(tmp_path, settings={}):
        raise ZeroDivisionError("by nothing")
    assert read_manifest(tmp_path)["status"] == "failed"
    assert read_manifest(tmp_path)["error"] == "ZeroDivisionError: by nothing"
    with pytest.raises(KeyboardInterrupt), record_run(tmp_path, settings={}):
        raise KeyboardInterrupt
    assert read_manifest(tmp_path)["status"] == "interrupted"
    with record_run(tmp_path, settings={}):
        pass
    manifest = read_manifest(tmp_path)
    assert manifest["status"] == "finished"
    assert isinstance(manifest["attempts"], list)
    assert [attempt["status"] for attempt in manifest["attempts"]] == ["failed", "interrupted"]
