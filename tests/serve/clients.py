"""Requests to a server as a test makes them, down to the bytes, and the errors that it gets."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.serve.conftest import Served

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "the cat"}]


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    error: dict[str, Any] = body["error"]
    return error


def stream(served: Served, **options: Any) -> socket.socket:
    """A connection on which an answer is being streamed."""
    body = json.dumps({"model": "toy", "messages": MESSAGES, "stream": True, **options}).encode()
    client = served.connect()
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    return client


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data
