"""The thread of each process that gives signs of life and watches those of the others.

The signs are in the launcher's store, which all processes reach: every process watches the main
one, and the main one watches all and writes its finding there. A thread that finds something ends
its process, by an exception where the main thread waits in one of accord's own exchanges, and
otherwise at once: a collective operation inside of torch can't be interrupted.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from accord.errors import WorkError
from accord.learn.loop.signs import (
    Observer,
    Sign,
    Waiting,
    gone_message,
    lost_message,
    silence_limit,
    still_message,
    store_message,
)
from accord.runs.activity import LATEST

INTERVAL = 1.0  # seconds between two signs
BUSY_SHARE = 0.1  # of the time computing, with which a process works
GRACE = 20.0  # seconds that the main thread has to end by itself
MAX_FAILURES = 3  # in a row, to reach the store
STORE_SECONDS = 10.0
DEFAULT_TIMEOUT = 1800.0
FINDING = "finding"
PACKAGE = str(Path(__file__).resolve().parents[2])


class Watch:
    """The signs of one process, and its view of the others'."""

    def __init__(self, store: Any, rank: int, world_size: int) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.timeout = DEFAULT_TIMEOUT
        self.finding: str | None = None
        self.waiting: Waiting = ""
        self.abandoned: Any = None  # an exchange that was under way when something was found
        self.observer = Observer(rank, world_size)
        self.main_thread = threading.main_thread().ident
        self.machine = f"{platform.node()}, pid {os.getpid()}"
        self.beats = self.progress = 0
        self.computed = _seconds_computed()
        self.last_state: Any = None
        self.stopping, self.lock = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._run, name="accord-watch", daemon=True)

    @property
    def interval(self) -> float:
        return min(INTERVAL, self.timeout / 10)

    def start(self) -> None:
        """Give the first sign, then go on in a thread until `stop`."""
        self._give_sign()
        self.thread.start()

    def stop(self) -> None:
        """Say that this process has ended by itself, and watch no more."""
        self.stopping.set()
        self.thread.join(STORE_SECONDS)
        with suppress(RuntimeError), self.lock:
            self.store.set(str(self.rank), self._sign(ended=True).to_bytes())

    @contextmanager
    def waits(self, *, limited: bool) -> Iterator[None]:
        """While the main thread waits for the other processes."""
        before, self.waiting = self.waiting, "limited" if limited else "unlimited"
        try:
            yield
        finally:
            self.waiting = before

    def lost(self, error: object) -> WorkError:
        """The error of a broken connection; waits some seconds to name the process that is gone."""
        limit = 2.5 * INTERVAL
        deadline = time.monotonic() + 2 * limit
        gone: list[Sign] = []
        while not gone and time.monotonic() < deadline:
            time.sleep(INTERVAL / 4)
            with suppress(RuntimeError):
                self._observe(range(self.world_size))
            now = time.monotonic()
            gone = [*self.observer.silent(now, limit), *self.observer.ended()]
        timed = [(sign, self.observer.since_beat(now, sign.rank)) for sign in gone]
        return WorkError(lost_message(self.rank, error, timed))

    def _run(self) -> None:
        failures = 0
        while not self.stopping.wait(self.interval):
            try:
                self._give_sign()
                self._observe(range(self.world_size) if self.rank == 0 else (0, self.rank))
                self._find()
                failures = 0
            except RuntimeError as error:
                failures += 1
                if failures >= MAX_FAILURES and self.waiting:
                    self.finding = store_message(str(error))
            if self.finding is not None:
                self._end()
                return

    def _give_sign(self) -> None:
        # A loop that waits for the others moves, but does not progress.
        position = self.waiting or _position(_frame_of(self.main_thread))
        state = (LATEST.count, position)
        computed = self.computed
        self.computed = _seconds_computed()
        is_busy = not self.waiting and self.computed - computed > BUSY_SHARE * self.interval
        self.progress += state != self.last_state or is_busy
        self.last_state = state
        self.beats += 1
        with self.lock:
            self.store.set(str(self.rank), self._sign().to_bytes())

    def _sign(self, *, ended: bool = False) -> Sign:
        frame = _frame_of(self.main_thread)
        waiting = self.waiting or ("limited" if _in_torch_collective(frame) else "")
        doing = _describe(frame)
        return Sign(self.rank, self.machine, self.beats, self.progress, waiting, doing, ended=ended)

    def _observe(self, ranks: Any) -> None:
        keys = [str(rank) for rank in ranks]
        with self.lock:
            present = [key for key in keys if self.store.check([key])]
            contents = self.store.multi_get(present) if present else []
            if self.store.check([FINDING]):
                self.finding = self.store.get(FINDING).decode()
            signs = {int(k): Sign.from_bytes(c) for k, c in zip(present, contents, strict=True)}
            self.observer.observe(time.monotonic(), signs, interval=self.interval)

    def _find(self) -> None:
        """Set the finding where a process is gone or stands still; the main process's is all's."""
        now, limit = time.monotonic(), silence_limit(self.timeout)
        if self.finding is not None:
            return
        text = None
        silent = [s for s in self.observer.silent(now, limit) if s.rank != self.rank]
        if silent:
            text = gone_message(silent[0], limit)
        elif self.rank == 0:
            culprits = self.observer.standing_still(now, self.timeout)
            if culprits is not None:
                text = still_message(self.rank, culprits, self.timeout)
        if text is not None and self.rank == 0:
            with self.lock:
                self.store.set(FINDING, text)
            self.stopping.wait(3 * self.interval)  # the others read it, and the store may be ours
        self.finding = text

    def _end(self) -> None:
        """End the process, where its main thread does not do so by itself."""
        assert self.finding is not None
        if self.stopping.wait(GRACE):
            return
        sys.stderr.write(f"\nError: {self.finding}\n")
        sys.stderr.flush()
        os._exit(WorkError.exit_code)


def open_watch(rank: int, world_size: int) -> Watch:
    """A watch in the store that the launcher's variables name."""
    from torch.distributed import PrefixStore, TCPStore

    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=STORE_SECONDS),
    )
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Watch(PrefixStore(f"accord/signs/{start}", store), rank, world_size)


def _seconds_computed() -> float:
    """Seconds that this process's threads have computed; 0 with a CUDA device, for whose results a
    thread may wait in a loop."""
    return 0.0 if torch.cuda.is_available() else time.process_time()


def _frame_of(thread: int | None) -> FrameType | None:
    """Where a thread is. No variable may hold all frames: it would be in one of them itself, and
    that cycle would keep what the main thread computes with."""
    return sys._current_frames().get(thread or 0)


def _position(frame: FrameType | None) -> tuple[tuple[int, int], ...]:
    """Where a thread is: it differs where the thread has moved, but for loops that wait."""
    position = []
    while frame is not None:
        position.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(position)


def _in_torch_collective(frame: FrameType | None) -> bool:
    """Whether a thread is in one of torch's own exchanges, as sharded models make them."""
    return frame is not None and "torch/distributed/" in frame.f_code.co_filename


def _describe(frame: FrameType | None) -> str:
    """What a thread does, in words: the activity, and the innermost function of accord's."""
    text = f"{LATEST.text}, " if LATEST.text else ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and not path.endswith(("/processes.py", "/watch.py")):
            line = f"accord{path.removeprefix(PACKAGE)}:{frame.f_lineno}"
            return f"{text}in {frame.f_code.co_name} ({line})"
        frame = frame.f_back
    return f"{text}between two steps" if text else "starting, or outside of accord"
