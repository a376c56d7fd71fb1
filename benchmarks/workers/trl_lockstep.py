"""Makes a trainer of TRL wait for a line before each step, and send what the step took."""

from __future__ import annotations

import sys
import time
from typing import Any

from protocol import peak_memory_mib, send, wait_for_device
from transformers import TrainerCallback


class Stepper:
    """Waits for a line, and sends the seconds since and the process's peak memory."""

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self.start_time = time.perf_counter()

    def finish(self) -> None:
        wait_for_device()
        send({"step": time.perf_counter() - self.start_time, "memory": peak_memory_mib()})


class Lockstep(TrainerCallback):  # type: ignore[misc]
    """A Stepper around each step of a transformers Trainer."""

    def __init__(self) -> None:
        self.stepper = Stepper()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.stepper.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.stepper.finish()
