"""One HTTP request and its answer: bodies within limits of size and time, answers within time.

A client that hangs up ends the work for it; one that does not read its answer does so after
SEND_SECONDS.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from accord.serve.errors import ApiError

BODY_SECONDS = 60.0  # for a request's whole body
SEND_SECONDS = 60.0  # for a part of an answer


class ClientGone(Exception):  # noqa: N818 - not an error: nobody waits for the answer any more
    """The client has hung up, or does not read."""


@dataclass
class Exchange:
    """A request of a client, and what was sent to it."""

    scope: Scope
    receive: Receive
    send: Send
    headers: dict[str, str] = field(init=False)
    status: int | None = None

    def __post_init__(self) -> None:
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in self.scope["headers"]
        }

    async def read_json(self, max_bytes: int) -> Any:
        """The body as JSON. Raises ApiError for one that is too large, too slow or no JSON, and
        ClientGone."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a web page can send anywhere is another type
            raise ApiError(
                415, f"The body's Content-Type is {kind or 'missing'}: send application/json."
            )
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                data = await self._read_body(max_bytes)
        except TimeoutError:
            raise ApiError(
                408, f"The body did not arrive within {BODY_SECONDS:g} seconds."
            ) from None
        return parse_json(data)

    async def _read_body(self, max_bytes: int) -> bytes:
        parts, size = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise _too_large(max_bytes)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def while_connected(self, work: Awaitable[None]) -> None:
        """Do the work, which sends the answer, and end it where the client hangs up.

        The body must have been read. Raises ClientGone where it was ended.
        """
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._wait_for_end())
        try:
            await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            await task
        finally:
            for pending in (task, watch):
                pending.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await pending

    async def _wait_for_end(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and headers."""
        self.status = status
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send_part(self, data: bytes, *, is_last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def send_text(
        self, status: int, text: str, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        data = text.encode("utf-8", "backslashreplace")
        fixed = {"Content-Type": kind, "Content-Length": str(len(data))}
        await self.start(status, {**fixed, **(headers or {})})
        await self.send_part(data, is_last=True)

    async def send_json(
        self, status: int, value: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer as JSON."""
        await self.send_text(status, dump_json(value), "application/json", headers)

    async def send_error(self, error: ApiError) -> None:
        """Send an error, or within a stream that has begun an event with it, and end."""
        if self.status is None:
            # What was not read of the body would be taken for the next request.
            close = {"Connection": "close"} if error.status in (408, 413) else {}
            await self.send_json(error.status, error.body, {**error.headers, **close})
        else:
            await self.send_part(sse_event(error.body), is_last=True)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.send(message)
        except (TimeoutError, OSError):
            raise ClientGone from None


def dump_json(value: Any) -> str:
    """JSON in one line, with every character as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def sse_event(value: Any) -> bytes:
    """A server-sent event that holds JSON."""
    return b"data: " + dump_json(value).encode("utf-8", "backslashreplace") + b"\n\n"


def parse_json(data: bytes) -> Any:
    """JSON of UTF-8. Raises ApiError (400) where it is none, or holds half a character."""

    def refuse_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The body is not UTF-8 at byte {error.start}.") from None
    except RecursionError:
        raise ApiError(400, "The body's JSON is nested too deeply.") from None
    except ValueError as error:
        raise ApiError(400, f"The body is no JSON: {error}.") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ApiError(400, "The body holds half a character (a lone surrogate).") from None
    return value


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"The body is larger than the {max_bytes} bytes that this server reads.")
