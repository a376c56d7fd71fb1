"""Runs the application on a port, and the engine until the server ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from accord.machine.loopback import in_url, listen
from accord.serve.access import Access
from accord.serve.app import create_app
from accord.serve.engine import Engine
from accord.serve.protocol import PatientProtocol

STALLED_SECONDS = 90  # after which the system drops a client that does not read


def run_server(engine: Engine, access: Access, port: int, *, log: Callable[[str], object]) -> None:
    """Serve an engine until interrupted, and close it. Raises RequestError where the port can't
    be used."""
    import uvicorn

    listener = listen_to_clients(access.host, port)
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
    address = f"http://{in_url(access.host)}:{listener.getsockname()[1]}/v1"
    log(f"{engine.model_names[0]} is served at {address} (Ctrl-C ends this).")
    with suppress(KeyboardInterrupt):  # how a user ends it
        uvicorn.Server(config).run(sockets=[listener])


def listen_to_clients(host: str, port: int) -> socket.socket:
    """A socket that listens, and whose clients are dropped where they stall. Raises RequestError
    where the port can't be used."""
    listener = listen(host, port)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # the sockets of clients inherit it
        timeout = STALLED_SECONDS * 1000
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
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
