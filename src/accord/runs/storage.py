"""Disk failures as StorageError, whose message has the free space and a remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from accord.errors import StorageError

_ERRORS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the disk allows",
    errno.EIO: "the disk reports an input/output error",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission was denied",
    errno.EPERM: "the operation is not permitted",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long for the disk",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
WRITE_ONLY_ERRNOS = frozenset({*_FULL, errno.EROFS})
"""Errors that only a write can raise; the others may also come from reading another file."""


@contextmanager
def storage_errors(path: str | Path, codes: Collection[int] = frozenset(_ERRORS)) -> Iterator[None]:
    """Turns a disk failure inside the block into a StorageError about `path`.

    Disk failures are OSErrors with one of `codes` (such as a full disk), and what libraries in Rust
    raise for the same codes ("… (os error 28)"). Other errors pass unchanged.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        code = _storage_errno(error)
        if code not in codes:
            raise
        raise StorageError(_message(Path(path), code)) from error


def _storage_errno(error: Exception) -> int:
    """The error's errno, 0 where it has none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match.group(1)) if match else 0


def _message(path: Path, code: int) -> str:
    if code in _FULL:
        remedy = "Free some space, or point `output_dir` to another disk"
    elif code == errno.EIO:
        remedy = "Check the disk, or point `output_dir` to another one"
    else:
        remedy = "Fix that, or point `output_dir` to a folder you can write to"
    return (
        f"Could not write {path}: {_ERRORS.get(code, os.strerror(code))}{_free_space(path)}. "
        f"{remedy}; "
        "then run the same command again: it resumes from what is complete."
    )


def _free_space(path: Path) -> str:
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({format_bytes(usage.free)} of {format_bytes(usage.total)} are free there)"


def format_bytes(count: float) -> str:
    """A number of bytes for people to read, such as "1.5 GB" (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def fsync_path(path: str | Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't sync a folder; the rename is then as durable as they allow.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
