"""Runs the application on a port, and the engine until the server ends."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from accord.errors import RequestError
from accord.serve.access import Access
from accord.serve.app import create_app
from accord.serve.engine import Engine
from accord.serve.protocol import PatientProtocol

STALLED_SECONDS = 90  # after which the system drops a client that does not read
CONNECTIONS = 2048  # waiting to be accepted


def run_server(engine: Engine, access: Access, port: int, *, log: Callable[[str], object]) -> None:
    """Serve an engine until interrupted, and close it. Raises RequestError where the port can't
    be used."""
    import uvicorn

    listener = bind(access.host, port)
    config = uvicorn.Config(
        closing(create_app(engine, access), engine),
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=3,
    )
    host = f"[{access.host}]" if ":" in access.host else access.host
    log(
        f"{engine.model_names[0]} is served at http://{host}:{listener.getsockname()[1]}/v1 "
        f"(Ctrl-C ends this)."
    )
    with suppress(KeyboardInterrupt):  # how a user ends it
        uvicorn.Server(config).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises RequestError where the port can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # the sockets of clients inherit it
        timeout = STALLED_SECONDS * 1000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
    try:
        listener.bind((host, port))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: "in use",
            errno.EACCES: "not allowed to this user",
            errno.EADDRNOTAVAIL: "at an address that this machine does not have",
        }.get(error.errno or 0, str(error.strerror or error))
        raise RequestError(
            f"Port {port} on {host} is {reason}. Choose another with --port, such as {port + 1}, "
            "or another --host."
        ) from None
    return listener


def closing(app: ASGIApp, engine: Engine) -> ASGIApp:
    """The application, which closes the engine when the server ends."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await engine.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})

    return closing
