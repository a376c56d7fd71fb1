"""Paths that can't be read: pipes, circles of links, long names, users who do not exist."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from accord.compare.dataset import load_records
from accord.data.files import read_rows
from accord.errors import DataError
from accord.runs import digest_path


def fails(path: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return str(caught.value)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "a.jsonl"
    os.mkfifo(pipe)
    assert fails(pipe) == (
        f"{pipe} is a named pipe, and rows are read more than once. Write them to a file first."
    )
    with pytest.raises(DataError, match="no regular file"):
        digest_path(pipe)
    os.mkfifo(tmp_path / "b.db")
    with pytest.raises(DataError, match=r"b\.db is a named pipe, and rows"):
        load_records(tmp_path / "b.db", "comparisons")
    before = digest_path(tmp_path)  # as part of a folder it has no content
    pipe.unlink()
    assert digest_path(tmp_path) == before


def test_sockets_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.jsonl")
        assert "a.jsonl is a socket, and rows" in fails("a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    assert "b.jsonl is a device, and rows" in fails("b.jsonl")
    (tmp_path / "c.jsonl").mkdir()  # a folder with that name is a folder
    assert "c.jsonl is a folder without rows" in fails("c.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.db"])
def test_the_home_folder_of_nobody(name: str) -> None:
    path = f"~nobody-of-that-name/{name}"
    with pytest.raises(DataError) as caught:
        load_records(path, "comparisons")
    assert str(caught.value) == (
        f"{path} begins with the home folder of a user that this machine does not know. Give the "
        "whole path."
    )


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    assert "loop.jsonl can't be read: Too many levels of symbolic links" in fails(
        tmp_path / "loop.jsonl"
    )
    for ending in (".jsonl", ".db"):
        with pytest.raises(DataError) as caught:
            load_records(tmp_path / ("x" * 5000 + ending), "comparisons")
        assert str(caught.value).endswith("can't be read: File name too long. Check the path.")
        assert len(str(caught.value)) < 300
    assert "can't be read: embedded null byte" in fails("a\0b.jsonl")
    (tmp_path / "broken.jsonl").symlink_to("gone.jsonl")
    assert fails(tmp_path / "broken.jsonl") == (
        f"{tmp_path / 'broken.jsonl'} is a link to gone.jsonl, which does not exist. Give another "
        "path."
    )


def test_a_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.jsonl")
    assert fails(path).startswith(f"{tmp_path}/\\udcff.jsonl does not exist")
    path.write_text('{"text": "a"}\n[]\n')
    records, report = load_records(path, "text")
    (report.summary() + str(records[0].source)).encode()
    assert "1 used, 1 dropped" in report.summary()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    path.chmod(0)
    assert fails(path) == f"{path} can't be read: Permission denied."


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{}".encode("utf-16"), "UTF-16 text. Save it as UTF-8"),
        (b"PAR1....", "a Parquet file. Rename it so that it ends with .parquet"),
        (b"PK\x03\x04....", "a zip archive. Unpack it"),
        (b"(\xb5/\xfd....", "packed by zstd. Unpack it, or pack it by gzip"),
        (b"BZh9....", "packed by bzip2. Unpack it, or pack it by gzip"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a pointer of Git LFS and not the file itself. Run `git lfs pull`",
        ),
    ],
)
def test_a_file_of_another_kind(content: bytes, what: str, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv"):
        (tmp_path / name).write_bytes(content)
        assert fails(tmp_path / name) == f"{tmp_path / name} is {what}."


def test_csv_without_a_mark_of_utf16(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("prompt,completion\na,b\n".encode("utf-16-le"))
    assert fails(path) == (
        f"{path}:1 holds NUL characters, as UTF-16 does. Save the file as UTF-8."
    )
