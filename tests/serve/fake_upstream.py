"""A fake OpenAI-compatible server that streams, with moods."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeUpstream:
    """`mood` is how it behaves; response k has the words of `texts[k]`, a chunk each.

    Without `n` it gives the next of `texts` at each request.
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
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.keys.append(self.headers["Authorization"])
                self._json(200, {"data": [{"id": "served"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.bodies.append(body)
                fake.keys.append(self.headers["Authorization"])
                with fake._lock:
                    fake.running += 1
                    fake.most_running = max(fake.most_running, fake.running)
                try:
                    self._answer(body)
                except (BrokenPipeError, ConnectionResetError):
                    fake.broken_off += 1
                finally:
                    with fake._lock:
                        fake.running -= 1

            def _answer(self, body: dict[str, Any]) -> None:
                mood = fake.mood
                if mood.isdigit():
                    error = {"message": "no", "code": "c", "param": "p"}
                    headers = {"Retry-After": "7"} if mood == "429" else {}
                    self._json(int(mood), {"error": error}, headers)
                    return
                if mood == "refuses n" and body.get("n", 1) > 1:
                    self._json(400, {"error": {"message": "n must be 1", "param": "n"}})
                    return
                if mood == "hangs":
                    time.sleep(1.5)
                    return
                time.sleep(fake.stagger * (len(fake.bodies) - 1))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                for event in self._events(body, mood):
                    self.wfile.write(event)
                    self.wfile.flush()

            def _events(self, body: dict[str, Any], mood: str) -> Iterator[bytes]:
                n = 1 if mood == "ignores n" else body.get("n", 1)
                with fake._lock:
                    first, fake._count = fake._count, fake._count + n
                texts = [fake.texts[(first + k) % len(fake.texts)].split(" ") for k in range(n)]
                yield b": a comment\n\n"
                for step in range(max(map(len, texts))):
                    for k, words in enumerate(texts):
                        if step >= len(words):
                            continue
                        if mood == "breaks" and step == 1:
                            yield b"data: {broken\n\n"
                            return
                        time.sleep(fake.delay)
                        text = (" " if step else "") + words[step]
                        yield self._chunk(body, k, text, None)
                        if step == len(words) - 1 and mood != "ends early":
                            yield self._chunk(body, k, "", "stop")
                if mood == "ends early":
                    return
                if mood != "no usage":
                    counts = {"prompt_tokens": 5, "completion_tokens": sum(map(len, texts))}
                    yield (
                        b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"
                    )
                yield b"data: [DONE]\n\n"

            def _chunk(self, body: dict[str, Any], k: int, text: str, finish: str | None) -> bytes:
                choice: dict[str, Any] = {"index": k, "finish_reason": finish}
                choice |= {"delta": {"content": text}} if "messages" in body else {"text": text}
                if body.get("logprobs") is True and text:
                    top = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())}]
                    choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
                return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

            def _json(
                self, status: int, content: Any, headers: dict[str, str] | None = None
            ) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: object) -> None:
                """Requests are not logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def fake_upstream() -> Iterator[FakeUpstream]:
    server = FakeUpstream()
    try:
        yield server
    finally:
        server.close()
