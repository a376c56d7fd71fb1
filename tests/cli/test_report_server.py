"""The report's server: one page, on this machine only."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from accord.cli.entry import run
from accord.cli.report_server import report_server
from accord.errors import RequestError


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "report.html").write_text("<p>Grüße</p>", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret")
    server = report_server(tmp_path, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read().decode("utf-8")
    connection.close()
    return response.status, body


def test_only_the_report_is_served(served: int) -> None:
    assert get(served, "/") == (200, "<p>Grüße</p>")
    assert get(served, "/report.html") == (200, "<p>Grüße</p>")
    for path in ("/secret.txt", "/../secret.txt", "/report.html/../secret.txt", "//etc/passwd"):
        status, body = get(served, path)
        assert status == 404
        assert "secret" not in body.replace("secret.txt", "")


def test_a_port_in_use_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.html").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["report", str(tmp_path), "--serve", "--port", str(port)]) == 2
    assert f"Port {port} on 127.0.0.1 is in use. Choose another" in capsys.readouterr().err


def test_a_missing_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"There is no report at .*report\.html"):
        report_server(tmp_path, 0)
