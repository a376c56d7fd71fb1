"""A fake OpenAI-compatible server that streams, with moods."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BROKEN = {  # what comes instead of the second word of a response
    "breaks": b"data: {broken\n\n",
    "reports an error": b'data: {"error": {"message": "out of memory"}}\n\n',
    "has no index": b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n',
}


class FakeUpstream:
    """`mood` is how it behaves; response k has the words of `texts[k]`, a chunk each.

    Without `n` it gives the next of `texts` at each request. `stagger` seconds pass before the
    answer of each request but the first, `delay` before each chunk.
    """

    def __init__(self) -> None:
        self.mood = "well"
        self.texts = ["one two", "three", "four five six", "seven"]
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.broken_off = 0
        self.running = self.most_running = 0
        self.delay = self.stagger = 0.0
        self._count = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add_running(self, change: int) -> None:
        with self._lock:
            self.running += change
            self.most_running = max(self.most_running, self.running)

    def next_words(self, n: int) -> list[list[str]]:
        """The words of the next `n` responses."""
        with self._lock:
            first, self._count = self._count, self._count + n
        return [self.texts[(first + k) % len(self.texts)].split(" ") for k in range(n)]

    def events(self, body: dict[str, Any]) -> Iterator[bytes]:
        """The stream that answers a body, in this mood."""
        words = self.next_words(1 if self.mood == "ignores n" else body.get("n", 1))
        yield b": a comment\n\n"
        for step in range(max(map(len, words))):
            for k, own_words in enumerate(words):
                if step >= len(own_words):
                    continue
                if self.mood in BROKEN and step == 1:
                    yield BROKEN[self.mood]
                    return
                time.sleep(self.delay)
                index = k + 1 if self.mood == "numbers from 1" else k
                text = (" " if step else "") + own_words[step]
                yield _chunk(body, index, text, None)
                if step == len(own_words) - 1 and not self._forgets_the_end_of(k, len(words)):
                    yield _chunk(body, index, "", "stop")
        if self.mood == "ends early":
            return
        if self.mood != "no usage":
            counts = {"prompt_tokens": 5, "completion_tokens": sum(map(len, words))}
            yield _event({"choices": [], "usage": counts})
        yield b"data: [DONE]\n\n"

    def _forgets_the_end_of(self, k: int, n: int) -> bool:
        return self.mood == "ends early" or (self.mood == "one ends early" and k == n - 1)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeUpstream

    def do_GET(self) -> None:
        self.fake.keys.append(self.headers["Authorization"])
        self._json(200, {"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.fake.bodies.append(body)
        self.fake.keys.append(self.headers["Authorization"])
        self.fake.add_running(1)
        try:
            self._answer(body)
        except (BrokenPipeError, ConnectionResetError):
            self.fake.broken_off += 1
        finally:
            self.fake.add_running(-1)

    def _answer(self, body: dict[str, Any]) -> None:
        mood = self.fake.mood
        if mood.isdigit():
            self._refuse(mood)
        elif mood == "refuses n" and body.get("n", 1) > 1:
            self._json(400, {"error": {"message": "n must be 1", "param": "n"}})
        elif mood == "hangs":
            time.sleep(1.5)
        else:
            time.sleep(self.fake.stagger * (len(self.fake.bodies) - 1))
            self._stream(body)

    def _refuse(self, status: str) -> None:
        error = {"message": "no", "code": "c", "param": "p"}
        headers = {"Retry-After": "7"} if status == "429" else {}
        self._json(int(status), {"error": error}, headers)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in self.fake.events(body):
            self.wfile.write(event)
            self.wfile.flush()

    def _json(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not logged."""


def _chunk(body: dict[str, Any], k: int, text: str, finish: str | None) -> bytes:
    choice: dict[str, Any] = {"index": k, "finish_reason": finish}
    choice |= {"delta": {"content": text}} if "messages" in body else {"text": text}
    if body.get("logprobs") is True and text:
        top = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())}]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return _event({"choices": [choice]})


def _event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


@contextmanager
def fake_upstream() -> Iterator[FakeUpstream]:
    server = FakeUpstream()
    try:
        yield server
    finally:
        server.close()
