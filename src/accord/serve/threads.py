"""Work in threads that end with it, so that the engine's thread has the processor's cores.

Each thread that computes in parallel has OpenMP workers of its own, which live as long as it does.
Once there are more of them than cores, GNU's OpenMP lets waiting workers sleep, and the many small
products of a decoding step take twice as long. So what loads models and scores answers must not be
the main thread, or one that a pool retains.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_thread_of_its_own(work: Callable[[], T]) -> T:
    """What `work` returns or raises, computed in a thread that ends with it. An interruption does
    not wait for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="accord-loading", daemon=True)
    thread.start()
    result = future.result()
    thread.join()
    return result


async def await_thread_of_its_own(work: Callable[[], T]) -> T:
    """`in_thread_of_its_own` for the event loop."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="accord-scoring")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work)
    finally:
        executor.shutdown(wait=False)
