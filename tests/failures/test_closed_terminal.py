"""A terminal that closes while a run writes to it, before the signal arrives."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from accord.interrupts import deferred_interrupts


class Closed(io.StringIO):
    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(self.code, "the terminal is gone")


def test_a_write_to_a_closed_terminal_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed(errno.EIO))
    original = sys.stdout
    with deferred_interrupts():
        print("step 3")
    assert sys.stdout is original


def test_a_full_disk_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed(errno.ENOSPC))
    with deferred_interrupts(), pytest.raises(OSError, match="gone"):
        print("step 3")


def test_without_any_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python sets it where the descriptor is closed
    with deferred_interrupts():
        print("step 3")
    assert sys.stdout is None
