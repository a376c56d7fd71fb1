"""The page in Chromium behind a reverse proxy that strips a path prefix and rewrites the Host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from accord.annotate.start import invite_person
from accord.compare.store.store import PreferenceStore
from tests.annotate.browsers import press, serving, tab, wait_for_done

PREFIX = "/lab/annotate"
PASSED = ("cookie", "content-type", "origin", "sec-fetch-site", "x-accord-session")


class Proxy:
    """Forwards what is below PREFIX to `target`; `paths` are those it was asked for."""

    def __init__(self) -> None:
        self.target = ""
        self.paths: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def forward(self) -> None:
                proxy.paths.append(self.path)
                if not self.path.startswith(PREFIX + "/"):
                    self.send_error(404)
                    return
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name: self.headers[name] for name in PASSED if name in self.headers}
                url = proxy.target + self.path.removeprefix(PREFIX)
                answer = httpx2.request(self.command, url, content=body, headers=headers)
                self.send_response(answer.status_code)
                for name, value in answer.headers.multi_items():
                    if name not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = forward  # noqa: N815 - the names that the server calls

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}{PREFIX}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.http.shutdown()
    proxy.http.server_close()


def test_an_invitation_votes_and_the_owners_page(path: Path, browser: Any, proxy: Proxy) -> None:
    with PreferenceStore.open(path) as store:
        token = invite_person(store, "Ada", "owner")
    with serving(path, "--public-url", proxy.url.rstrip("/")) as server:
        proxy.target = server.url.rstrip("/")
        with tab(browser, proxy) as page:
            page.get_by_text("By invitation").wait_for()
            page.goto(proxy.url + f"enter#{token}")
            wait_for_done(page, 0)
            assert page.url == proxy.url
            (cookie,) = page.context.cookies()
            assert (cookie["path"], cookie["httpOnly"], cookie["sameSite"]) == (
                PREFIX + "/",
                True,
                "Strict",
            )
            press(page, "ArrowLeft", "1")
            wait_for_done(page, 1)
            page.get_by_role("link", name="Owner’s page").click()
            page.get_by_role("row").filter(has_text="Ada").first.wait_for()
            page.get_by_role("link", name="To the items").click()
            wait_for_done(page, 1)
    assert all(path.startswith(PREFIX + "/") for path in proxy.paths)
    with PreferenceStore.read(path) as store:
        assert [v.annotator for v in store.verdicts()] == ["Ada"]
