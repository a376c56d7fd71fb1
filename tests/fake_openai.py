"""A fake server with OpenAI's chat completions, on a port of this machine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]

_TEXTS = re.compile(
    r"<(prompt|reference|response|response-A|response-B)-(\w+)>\n(.*?)\n</\1-\2>", re.DOTALL
)


def completion(text: str | None, finish: str = "stop") -> dict[str, Any]:
    """A chat completion of 20 prompt tokens and 3 completion tokens."""
    return {
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 3},
    }


def request_text(body: Any) -> str:
    (message,) = body["messages"]
    assert message["role"] == "user"
    text: str = message["content"]
    return text


def judged_texts(body: Any) -> dict[str, str]:
    """The prompt and the responses in a judge's request, by the names of their tags."""
    return {name: text for name, _, text in _TEXTS.findall(request_text(body))}


def prefers(utility: Callable[[str], float]) -> Callable[[Any], Reply]:
    """Answers in JSON which of two responses has the higher utility, or a response's utility."""

    def answer(body: Any) -> Reply:
        texts = judged_texts(body)
        if "response" in texts:
            return 200, completion(json.dumps({"score": utility(texts["response"])}))
        a, b = utility(texts["response-A"]), utility(texts["response-B"])
        verdict = "tie" if a == b else "A" if a > b else "B"
        return 200, completion(json.dumps({"reason": "so", "verdict": verdict}))

    return answer


class FakeOpenAi:
    """`requests` are the bodies of the requests; `answer` is called with each."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.keys: list[str | None] = []
        self.paths: set[str] = set()
        self.answer: Callable[[Any], Reply] = lambda body: (200, completion("Verdict: A"))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append(body)
                fake.keys.append(self.headers["Authorization"])
                fake.paths.add(self.path)
                status, content, *headers = fake.answer(body)
                if status == 0:  # hang up without an answer
                    self.close_connection = True
                    return
                data = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                for name, value in (headers[0] if headers else {}).items():
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
