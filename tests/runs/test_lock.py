"""A folder's lock: one run at a time, across processes, forks, kills and machines."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accord.errors import LockedError, StorageError
from accord.runs import digest_path, lock, lock_folder, remove_stale_lock

HOLDER = """
import os, subprocess, sys, time
from accord.runs import lock_folder
with lock_folder(sys.argv[1]):
    if "fork" in sys.argv and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    if "fork" not in sys.argv:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """A process that has the folder's lock; also the pid that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def holder(folder: Path) -> Any:
    """The process that the lock file names."""
    return json.loads((folder / lock.LOCK_FILE).read_text())["pid"]


def write_lock(folder: Path, **changes: Any) -> Path:
    """A lock file that an earlier run left, of this process on this machine but for `changes`."""
    with lock_folder(folder):
        path = folder / lock.LOCK_FILE
        about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, **changes}))
    return path


def test_a_second_run_is_refused_and_the_first_named(tmp_path: Path) -> None:
    process, pid = start_holder(tmp_path)
    try:
        with pytest.raises(LockedError) as refused, lock_folder(tmp_path):
            pass
        assert re.fullmatch(
            rf"Another run writes to {tmp_path}: process {pid} on {socket.gethostname()}, since "
            r"20\d\d-.*T.* \(`-c .*`\)\. Wait for it to end, or name another output_dir\.",
            str(refused.value),
        )
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    process, _ = start_holder(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / lock.LOCK_FILE).is_file()
    with lock_folder(tmp_path):
        assert holder(tmp_path) == os.getpid()
    assert list(tmp_path.iterdir()) == []  # nothing is left of either


def test_the_lock_of_a_killed_run_is_removed_and_a_running_ones_stays(tmp_path: Path) -> None:
    remove_stale_lock(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    process, pid = start_holder(tmp_path)
    remove_stale_lock(tmp_path)
    assert holder(tmp_path) == pid
    process.kill()
    process.wait()
    remove_stale_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_does_not_prolong_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    process, child = start_holder(tmp_path, "fork")
    process.kill()
    process.wait()
    try:
        with lock_folder(tmp_path):
            assert holder(tmp_path) == os.getpid()
        assert os.path.exists(f"/proc/{child}")  # it lived through that
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_excludes_other_runs_of_the_same_process(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with (
            pytest.raises(LockedError, match="It is this very process: close the earlier run"),
            lock_folder(tmp_path / "sub" / ".."),
        ):
            pass
        with lock_folder(tmp_path, "report"), lock_folder(tmp_path / "sub"):
            pass  # another purpose, another folder
    with lock_folder(tmp_path):
        pass


def test_a_lock_is_released_by_an_error_and_with_an_abandoned_generator(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock_folder(tmp_path):
        raise KeyboardInterrupt
    abandoned = lock_folder(tmp_path)
    abandoned.__enter__()
    del abandoned
    with lock_folder(tmp_path):
        pass


def test_a_run_on_another_machine_is_refused_with_the_file_to_remove(tmp_path: Path) -> None:
    path = write_lock(tmp_path, host="node7", pid=4, boot="another", since="2026-01-01T00:00:00")
    with (
        pytest.raises(
            LockedError,
            match=rf"process 4 on node7, since 2026-01-01T00:00:00.* if it has ended, remove "
            rf"{re.escape(str(path))}; else wait",
        ),
        lock_folder(tmp_path),
    ):
        pass
    path.unlink()
    with lock_folder(tmp_path):
        pass


def test_a_lock_from_before_a_restart_of_this_machine_is_taken_over(tmp_path: Path) -> None:
    write_lock(tmp_path, boot="another", pid=1)
    with lock_folder(tmp_path):
        assert holder(tmp_path) == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_lock_file_without_a_lock_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / lock.LOCK_FILE).write_text(content)
    with lock_folder(tmp_path):
        assert holder(tmp_path) == os.getpid()
    assert list(tmp_path.iterdir()) == []


def refuse_locks(*_: object) -> None:
    raise OSError(38, "Function not implemented")


def test_without_locks_in_the_file_system_the_process_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.fcntl, "flock", refuse_locks)
    write_lock(tmp_path)  # this process: it runs
    with pytest.raises(LockedError, match="this very process"), lock_folder(tmp_path):
        pass
    write_lock_of_another_process = {"process_start": "1"}  # its pid is used again
    (tmp_path / lock.LOCK_FILE).unlink()
    write_lock(tmp_path, **write_lock_of_another_process)
    with lock_folder(tmp_path):
        pass


def test_a_working_directory_that_changes_does_not_move_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path)
    with lock_folder("out"):
        os.chdir("else")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(StorageError, match="a part of the path is a file"), lock_folder(folder):
            pass
    assert (tmp_path / "file").read_text() == "precious"


def test_a_lock_is_no_content_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    before = digest_path(tmp_path)
    with lock_folder(tmp_path):
        assert digest_path(tmp_path) == before
