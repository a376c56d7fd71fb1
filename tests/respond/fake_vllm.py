"""A small HTTP server that answers as vLLM does, and fails where a test sets a failing answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
MODELS = {"data": [{"id": "base", "parent": None, "max_model_len": 64}]}


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """Response j to prompt i: its prompt's first token, j, and EOS; in any order."""
    choices = [
        {
            "index": i * body["n"] + j,
            "token_ids": [prompt[0], j, 2],
            "logprobs": {"token_logprobs": [-0.5, -1.5, -0.25], "top_logprobs": [{"x": -0.5}] * 3},
            "finish_reason": "stop",
            "stop_reason": None,
        }
        for i, prompt in enumerate(body["prompt"])
        for j in range(body["n"])
    ]
    return {"choices": choices[::-1]}


class FakeVllm:
    """`seen` lists the requests (path, body), `keys` their Authorization headers.

    `answers[path]` is called with the body of each request; a status of 0 closes the connection.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: dict[str, Callable[[Any], Answer]] = {
            "/v1/models": lambda body: (200, MODELS),
            "/health": lambda body: (200, ""),
            "/v1/completions": lambda body: (200, completion(body)),
            "/v1/load_lora_adapter": lambda body: (200, "Success"),
            "/v1/unload_lora_adapter": lambda body: (200, "Success"),
            "/weight_info": lambda body: (404, {"detail": "Not Found"}),
        }
        self.weights = self.version = "default"
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                self.reply(json.loads(self.rfile.read(length)))

            def reply(self, body: Any) -> None:
                fake.seen.append((self.path, body))
                fake.keys.append(self.headers["Authorization"])
                status, content = fake.answers[self.path](body)
                if status == 0:  # close the connection without an answer
                    self.close_connection = True
                    return
                data = content if isinstance(content, str) else json.dumps(content)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data.encode())))
                self.end_headers()
                self.wfile.write(data.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def take_weights(self, root: str) -> None:
        """Replace weights on request, as a server in development mode that was started with `root`:
        `weights` is the folder that it has, or "default"."""
        self.answers["/v1/models"] = lambda body: (
            200,
            {"data": [{**MODELS["data"][0], "root": root}]},
        )
        self.answers["/weight_info"] = lambda body: (200, {"weight_version": self.version})
        for path in ("/pause?mode=wait", "/resume", "/reset_prefix_cache"):
            self.answers[path] = lambda body: (200, {"status": "done"})

        def reload(body: Any) -> Answer:
            assert body["method"] == "reload_weights"
            self.weights = body["kwargs"]["weights_path"]
            return 200, {"results": [None]}

        def name(body: Any) -> Answer:
            self.version = body["new_version"]
            return 200, {"success": True}

        self.answers["/collective_rpc"] = reload
        self.answers["/update_weight_version"] = name

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
