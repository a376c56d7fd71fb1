"""Failures of the disk, told as StorageError with the free space and a remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from accord.errors import StorageError

_WHAT = {
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
ONLY_WRITING = frozenset({*_FULL, errno.EROFS})
"""What only a write can meet; the others may as well come from reading another file."""


@contextmanager
def storage_errors(path: str | Path, codes: Collection[int] = frozenset(_WHAT)) -> Iterator[None]:
    """Turns a failure of the disk inside the block into StorageError about `path`.

    Failures are OSErrors with one of `codes` (such as a full disk), and what libraries in Rust
    raise for the same ("… (os error 28)"). Other errors pass unchanged.
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
    """The system's number of the error, 0 when it has none."""
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
        remedy = "Put that right, or point `output_dir` to a folder you can write to"
    return (
        f"Could not write {path}: {_WHAT.get(code, os.strerror(code))}{_free(path)}. {remedy}; "
        "then run the same command again: it goes on from what is complete."
    )


def _free(path: Path) -> str:
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({size(usage.free)} of {size(usage.total)} are free there)"


def size(count: float) -> str:
    """Bytes as people read them, such as "1.5 GB" (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def fsync_path(path: str | Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't sync a folder; the rename is then as durable as they make it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
