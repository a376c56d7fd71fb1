"""Several streams as one: all are accepted first, a drop ends at once, and closing closes all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from accord.serve.engine import Accepted, Delta, Event, TokenUsage
from accord.serve.errors import ApiError
from accord.serve.merging import MergedStreams


class Stream:
    """A stream whose events the test sends; `is_open` while it is read."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self.is_open = False

    def send(self, *events: Event | Exception | None) -> None:
        for event in events:
            self.inbox.put_nowait(event)

    async def events(self) -> AsyncGenerator[Event, None]:
        self.is_open = True
        try:
            while (event := await self.inbox.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.is_open = False


def merged_of(*streams: Stream) -> MergedStreams:
    return MergedStreams({i: stream.events() for i, stream in enumerate(streams)})


def test_nothing_comes_before_all_are_accepted() -> None:
    async def read() -> list[tuple[int, Event]]:
        first, second = Stream(), Stream()
        events = merged_of(first, second).events()
        first.send(Accepted(), Delta(0, "a"), TokenUsage(1, 1), None)
        seen = [await anext(events)]  # the usage, which no client sees
        second.send(Accepted(), Delta(0, "b"), TokenUsage(1, 2), None)
        return seen + [event async for event in events]

    assert asyncio.run(read()) == [
        (0, TokenUsage(1, 1)),
        (1, Accepted()),
        (0, Delta(0, "a")),
        (1, Delta(0, "b")),
        (1, TokenUsage(1, 2)),
    ]


def test_what_is_dropped_ends_at_once_and_the_rest_goes_on() -> None:
    async def read() -> list[tuple[int, Event]]:
        first, second = Stream(), Stream()
        merged = merged_of(first, second)
        first.send(Accepted())
        second.send(Accepted())
        events = merged.events()
        seen = [await anext(events)]
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        second.send(Delta(0, "b"))
        merged.drop([1])
        first.send(Delta(0, "a"))
        seen.append(await waiting)
        await asyncio.sleep(0.01)
        assert not second.is_open
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        merged.drop([0])  # all are dropped: it ends, and does not wait
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert not first.is_open
        return seen

    accepted, (number, delta) = asyncio.run(read())
    assert accepted[1] == Accepted()
    assert (number, delta) == (0, Delta(0, "a"))


def test_an_error_and_closing_end_all_streams() -> None:
    async def fail(is_error: bool) -> None:
        first, second = Stream(), Stream()
        async with aclosing(merged_of(first, second).events()) as events:
            first.send(Accepted())
            second.send(Accepted())
            await anext(events)
            assert first.is_open
            if is_error:
                second.send(ApiError(502, "broken"))
                with pytest.raises(ApiError, match="broken"):
                    await anext(events)
        assert not first.is_open
        assert not second.is_open

    for is_error in (True, False):
        asyncio.run(fail(is_error))
