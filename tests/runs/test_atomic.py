"""Folders and files that are whole or absent: killed writers, full disks, concurrent readers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.small_disk import mount_small_disk

from accord.errors import StorageError
from accord.runs import atomic, atomic_folder, remove_folder, write_json_atomic
from accord.runs.atomic import finish_interrupted_write
from accord.runs.storage import storage_errors

WRITER = """
import os, signal, sys
from pathlib import Path
from accord.runs import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("new")
    (folder / "deep").mkdir()
    (folder / "deep" / "half").write_text("ha")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def fill(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "config").write_text(text)


def fill_twice(folder: Path) -> None:
    fill(folder, "two")
    fill(folder, "again")  # fails, since the inner folder exists


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "a" / "model"
    with atomic_folder(final) as folder:
        fill(folder, "one")
        assert not final.exists()
    assert (final / "deep" / "config").read_text() == "one"
    assert [p.name for p in final.parent.iterdir()] == ["model"]


def test_an_old_folder_is_replaced_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with atomic_folder(final) as folder:
        fill(folder, "one")
        (folder / "only in the first").write_text("")
    with atomic_folder(final) as folder:
        fill(folder, "two")
        assert (final / "weights").read_text() == "one"  # until the new folder is complete
    assert sorted(p.name for p in final.iterdir()) == ["deep", "weights"]
    assert (final / "weights").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_error_leaves_the_old_folder_and_no_leftovers(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with atomic_folder(final) as folder:
        fill(folder, "one")
    with pytest.raises(FileExistsError), atomic_folder(final) as folder:
        fill_twice(folder)
    assert (final / "weights").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("existed", [False, True])
def test_a_killed_writer_changes_nothing_and_its_leftovers_are_removed(
    tmp_path: Path, existed: bool
) -> None:
    final = tmp_path / "model"
    if existed:
        with atomic_folder(final) as folder:
            fill(folder, "old")
    killed = subprocess.run([sys.executable, "-c", WRITER, str(final)], check=False)
    assert killed.returncode == -signal.SIGKILL
    leftovers = [p for p in tmp_path.iterdir() if p.name != "model"]
    assert len(leftovers) == 1  # the killed process could not clean up
    assert final.exists() is existed
    if existed:
        assert (final / "weights").read_text() == "old"
    with atomic_folder(final) as folder:
        assert not leftovers[0].exists()
        fill(folder, "next")
    assert (final / "weights").read_text() == "next"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


FILE_WRITER = """
import os, signal, sys
from accord.runs import atomic, write_json_atomic
atomic.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_json_atomic(sys.argv[1], "new")
"""


def test_the_leftover_of_a_killed_file_writer_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json_atomic(path, "old")
    killed = subprocess.run([sys.executable, "-c", FILE_WRITER, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the killed process could not clean up
    assert json.loads(path.read_text()) == "old"
    write_json_atomic(path, "next")
    assert json.loads(path.read_text()) == "next"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_file_of_a_live_writer_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two writers at once: each reads what it wrote, and the last one wins.
    path, real_fsync, calls = tmp_path / "x.json", os.fsync, []

    def fsync(descriptor: int) -> None:
        if not calls:
            calls.append(descriptor)
            write_json_atomic(path, "in between")
            assert json.loads(path.read_text()) == "in between"
        real_fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    write_json_atomic(path, "last")
    assert calls
    assert json.loads(path.read_text()) == "last"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


REMOVER = """
import os, signal, sys
from accord.runs import atomic, remove_folder
def remove_half(folder, **options):
    (folder / "weights").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
atomic.shutil.rmtree = remove_half
remove_folder(sys.argv[1])
"""


def test_a_half_removed_folder_does_not_exist(tmp_path: Path) -> None:
    final = tmp_path / "checkpoints"
    with atomic_folder(final) as folder:
        fill(folder, "one")
    killed = subprocess.run([sys.executable, "-c", REMOVER, str(final)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not final.exists()
    assert len(list(tmp_path.iterdir())) == 1  # its leftovers, under another name
    remove_folder(final)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_live_writer_is_left_alone(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with atomic_folder(final) as folder:
        fill(folder, "mine")
        finish_interrupted_write(final)
        assert (folder / "weights").read_text() == "mine"


def read_inside(folder: int, name: str) -> str:
    """The text of a file in an open folder, whatever the folder's name is by now."""
    with open(name, opener=lambda path, flags: os.open(path, flags, dir_fd=folder)) as file:
        return file.read()


def test_a_reader_never_sees_the_folder_missing_or_mixed(tmp_path: Path) -> None:
    if atomic._renameat2() is None:
        pytest.skip("this system can't exchange two names in one step")
    final = tmp_path / "model"
    with atomic_folder(final) as folder:
        fill(folder, "0")
    errors: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                descriptor = os.open(final, os.O_RDONLY)
            except FileNotFoundError:
                errors.append("missing")
                continue
            try:
                texts = [read_inside(descriptor, name) for name in ("weights", "deep/config")]
                if len(set(texts)) != 1:
                    errors.append(f"mixed {texts}")
            except FileNotFoundError:
                pass  # the open folder has been replaced and removed
            finally:
                os.close(descriptor)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(1, 40):
            with atomic_folder(final) as folder:
                fill(folder, str(i))
    finally:
        done.set()
        reader.join()
    assert errors == []


def test_without_an_exchange_the_old_folder_is_moved_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    final = tmp_path / "model"
    for text in ("one", "two"):
        with atomic_folder(final) as folder:
            fill(folder, text)
    assert (final / "weights").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    # A process that died between its two renames: only the old folder, under another name.
    final.rename(tmp_path / ".model.aside")
    finish_interrupted_write(final)
    assert (final / "weights").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk" / "model").mkdir(parents=True)
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "disk" / "model")
    with atomic_folder(link) as folder:
        fill(folder, "one")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "model" / "weights").read_text() == "one"


def test_a_file_at_the_path_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with (
        pytest.raises(StorageError, match="is a file where a folder must be"),
        atomic_folder(tmp_path / "model"),
    ):
        pass
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(StorageError, match=r"Could not write .*plain/model: "):
        write_json_atomic(tmp_path / "plain" / "model", {})


def test_json_is_whole_and_valid(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json_atomic(path, {"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("d")})
    # JSON has no NaN: a strict reader must be able to read every file.
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == {"a": None, "b": [None, 1.5], "c": "d"}
    with pytest.raises(TypeError, match="JSON can't hold"):
        write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text())["c"] == "d"
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, mounted for the test."""
    with mount_small_disk(tmp_path / "small", "1m") as folder:
        yield folder


def test_a_full_disk_is_an_error_with_its_space_and_leaves_the_old_folder(small_disk: Path) -> None:
    final = small_disk / "model"
    with atomic_folder(final) as folder:
        (folder / "weights").write_bytes(b"1" * 300_000)
    with pytest.raises(StorageError) as caught, atomic_folder(final) as folder:
        (folder / "weights").write_bytes(b"2" * 900_000)
    message = str(caught.value)
    assert message.startswith(f"Could not write {final}: no space is left on the disk (")
    assert "of 1.0 MB are free there). Free some space, or point `output_dir` to" in message
    assert "run the same command again" in message
    assert (final / "weights").read_bytes() == b"1" * 300_000
    assert [p.name for p in small_disk.iterdir()] == ["model"]


def test_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "x.json"
    write_json_atomic(path, "old")
    with pytest.raises(StorageError, match="no space is left"):
        write_json_atomic(path, "2" * 2_000_000)
    assert json.loads(path.read_text()) == "old"
    assert [p.name for p in small_disk.iterdir()] == ["x.json"]


def test_a_full_disk_error_of_a_rust_library_is_recognised(tmp_path: Path) -> None:
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(StorageError, match="no space is left on the disk"), storage_errors("x"):
        raise RuntimeError(message)


def test_a_read_error_is_not_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "model"):
        raise PermissionError(13, "Permission denied", "/some/input")
