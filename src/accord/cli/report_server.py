"""A server that shows one finished report to a browser on this machine."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from accord.errors import RequestError
from accord.settings.reading.load import parse_override


def serve_report(overrides: Sequence[str], *, port: int, log: Callable[[str], object]) -> None:
    """Serve report.html in the folder `output_dir` on 127.0.0.1 until interrupted.

    No other file of the folder is served; `log` prints the address.
    Raises RequestError if there is no report or the port is in use.
    """
    values = {".".join(path): value for path, value in map(parse_override, overrides)}
    folder = Path(str(values.get("output_dir") or "."))
    server = report_server(folder, port)
    log(f"The report of {folder} is at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends this).")
    try:
        server.serve_forever()
    except KeyboardInterrupt:  # how a user ends it
        pass
    finally:
        server.server_close()


def report_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of `folder`/report.html on 127.0.0.1. Raises RequestError as `serve_report`."""
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
        reason = "in use" if error.errno == errno.EADDRINUSE else "not allowed to this user"
        raise RequestError(
            f"Port {port} on 127.0.0.1 is {reason}. Choose another with --port, such as {port + 1}."
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
