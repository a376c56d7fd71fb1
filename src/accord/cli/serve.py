"""Shows one finished report to a browser on this machine."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from accord.errors import RequestError
from accord.settings.reading.load import parse_override


def serve_report(overrides: Sequence[str], *, port: int, say: Callable[[str], object]) -> None:
    """Serves report.html of the folder that `output_dir` names until interrupted.

    Nothing else in the folder is served, and only 127.0.0.1 is listened on.
    Raises RequestError when there is no report or the port is in use.
    """
    given = {".".join(path): value for path, value in map(parse_override, overrides)}
    folder = Path(str(given.get("output_dir") or "."))
    server = report_server(folder, port)
    say(f"The report of {folder} is at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends this).")
    try:
        server.serve_forever()
    except KeyboardInterrupt:  # the way it is meant to end
        pass
    finally:
        server.server_close()


def report_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of `folder`/report.html on 127.0.0.1. Raises RequestError."""
    page = folder / "report.html"
    if not page.is_file():
        raise RequestError(
            f"There is no report at {page}. Write it with `accord report {folder}`, or name the "
            "folder of a finished run."
        )
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), _handler(page))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "in use" if error.errno == errno.EADDRINUSE else "not allowed to this user"
        raise RequestError(
            f"Port {port} on 127.0.0.1 is {why}. Choose another with --port, such as {port + 1}."
        ) from None


def _handler(page: Path) -> type[BaseHTTPRequestHandler]:
    class ReportHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/", "/report.html"):
                self.send_error(404, "Only report.html is served here")
                return
            body = page.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Requests are not logged."""

    return ReportHandler
