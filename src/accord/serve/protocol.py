"""uvicorn's HTTP/1.1 protocol, which does not wait forever for the head of a request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from accord.serve.errors import ApiError

HEAD_SECONDS = 30.0  # for the request line and headers


class PatientProtocol(H11Protocol):
    """Closes a connection whose request's head is not complete after HEAD_SECONDS, and answers
    what is no HTTP in OpenAI's form."""

    head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self.head_timer is None and not self._is_answering():
            self._start_timer()  # the next request on this connection
        super().data_received(data)
        if self._is_answering():
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answering():  # the next request was here already
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        self._send_and_close(ApiError(400, f"{msg.rstrip('.')}: this is no HTTP/1.1 request."))

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self.head_timer = self.loop.call_later(HEAD_SECONDS, self._time_is_up)

    def _stop_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def _time_is_up(self) -> None:
        self.head_timer = None
        if not (self._is_answering() or self.transport.is_closing()):
            message = f"The request's head did not arrive within {HEAD_SECONDS:g} seconds."
            self._send_and_close(ApiError(408, message))

    def _send_and_close(self, error: ApiError) -> None:
        """Write an answer past h11, whose state may be that of an error."""
        body = json.dumps(error.body).encode()
        phrase = {400: b"Bad Request", 408: b"Request Timeout"}[error.status]
        head = (
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n" % (error.status, phrase, len(body))
        )
        self.transport.write(head + body)
        self.transport.close()
