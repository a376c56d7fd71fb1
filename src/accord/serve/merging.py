"""Several streams of events as one: of the prompts of a request, or of its responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from accord.serve.engine import Accepted, Event, TokenUsage


class MergedStreams:
    """Reads streams at the same time; each has a number."""

    def __init__(self, streams: Mapping[int, AsyncGenerator[Event, None]]) -> None:
        self._streams = dict(streams)
        self._inbox: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ended: set[int] = set()

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """The events as they come, each with its stream's number, until all streams have ended.

        `Accepted` comes once, when all are accepted; apart from usages nothing comes before it.
        Raises what a stream raises. Closing the generator closes the streams.
        """
        self._tasks = {i: asyncio.create_task(self._read(i)) for i in self._streams}
        num_accepted = 0
        early: list[tuple[int, Event]] = []
        try:
            while len(self._ended) < len(self._tasks):
                number, received = await self._inbox.get()
                if number in self._ended:
                    continue  # it was dropped
                if isinstance(received, Exception):
                    raise received
                if received is None:
                    self._ended.add(number)
                elif isinstance(received, Accepted):
                    num_accepted += 1
                    if num_accepted == len(self._tasks):
                        for event in ((number, received), *early):
                            yield event
                elif num_accepted == len(self._tasks) or isinstance(received, TokenUsage):
                    yield number, received
                else:
                    early.append((number, received))
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def drop(self, numbers: Iterable[int]) -> None:
        """End streams that are accepted; nothing more comes of them."""
        for number in numbers:
            self._tasks[number].cancel()
            self._ended.add(number)
            self._inbox.put_nowait((number, None))  # wakes who waits for the next event

    async def _read(self, number: int) -> None:
        try:
            async with aclosing(self._streams[number]) as events:
                async for event in events:
                    self._inbox.put_nowait((number, event))
            self._inbox.put_nowait((number, None))
        except Exception as error:
            self._inbox.put_nowait((number, error))
