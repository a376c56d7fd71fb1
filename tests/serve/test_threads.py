"""Work in threads that end with it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from accord.errors import ModelError
from accord.serve.threads import await_thread_of_its_own, in_thread_of_its_own


def fail() -> None:
    raise ModelError("no such model")


def test_work_runs_elsewhere_and_its_thread_ends() -> None:
    worker = in_thread_of_its_own(threading.current_thread)
    assert worker is not threading.main_thread()
    assert not worker.is_alive()
    with pytest.raises(ModelError, match="no such model"):
        in_thread_of_its_own(fail)


def test_the_event_loop_goes_on_meanwhile() -> None:
    async def both() -> tuple[threading.Thread, int]:
        def work() -> threading.Thread:
            time.sleep(0.1)
            return threading.current_thread()

        waiting = asyncio.create_task(await_thread_of_its_own(work))
        turns = 0
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.005)
        with pytest.raises(ModelError):
            await await_thread_of_its_own(fail)
        return await waiting, turns

    worker, turns = asyncio.run(both())
    worker.join(timeout=10)
    assert not worker.is_alive()
    assert turns > 3
