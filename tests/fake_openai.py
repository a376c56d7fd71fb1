"""A server that speaks as OpenAI's chat completions do, on a port of this machine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]

_TEXTS = re.compile(r"<(prompt|response|response-A|response-B)-(\w+)>\n(.*?)\n</\1-\2>", re.DOTALL)


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    """An answer that took 20 tokens of a prompt and 3 of its own."""
    return {
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 3},
    }


def question_of(body: Any) -> str:
    (message,) = body["messages"]
    assert message["role"] == "user"
    found: str = message["content"]
    return found


def texts_of(body: Any) -> dict[str, str]:
    """The prompt and the responses that a question holds."""
    return {name: text for name, _, text in _TEXTS.findall(question_of(body))}


def prefers(liked: Callable[[str], float]) -> Callable[[Any], Reply]:
    """Says in JSON which of two responses has more of what is liked, or that as a score."""

    def answer(body: Any) -> Reply:
        texts = texts_of(body)
        if "response" in texts:
            return 200, completion(json.dumps({"score": liked(texts["response"])}))
        a, b = liked(texts["response-A"]), liked(texts["response-B"])
        verdict = "tie" if a == b else "A" if a > b else "B"
        return 200, completion(json.dumps({"reason": "so", "verdict": verdict}))

    return answer


class FakeOpenAi:
    """`seen` are the requests' bodies; `answer` is called with each."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.keys: list[str | None] = []
        self.paths: set[str] = set()
        self.answer: Callable[[Any], Reply] = lambda body: (200, completion("Verdict: A"))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.seen.append(body)
                fake.keys.append(self.headers["Authorization"])
                fake.paths.add(self.path)
                status, found, *more = fake.answer(body)
                if status == 0:  # hang up without a word
                    self.close_connection = True
                    return
                data = found if isinstance(found, str) else json.dumps(found)
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data.encode())))
                self.end_headers()
                self.wfile.write(data.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
