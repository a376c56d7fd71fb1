"""The ASGI application: paths, access, and every error in OpenAI's form."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accord.serve.access import Access
from accord.serve.engine import Engine
from accord.serve.errors import ApiError
from accord.serve.exchange import ClientGone, Exchange
from accord.serve.metrics import Metrics
from accord.serve.routes import Routes

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 << 20
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/health",
    "/metrics",
)


def create_app(engine: Engine, access: Access, *, max_body_bytes: int = MAX_BODY_BYTES) -> ASGIApp:
    """The application on an engine, which it does not close."""
    metrics = Metrics()
    routes = Routes(engine, metrics, max_body_bytes)
    table = [
        Route("/v1/chat/completions", _Endpoint(routes.chat), methods=["POST"]),
        Route("/v1/completions", _Endpoint(routes.complete), methods=["POST"]),
        Route("/v1/models", _Endpoint(routes.models), methods=["GET"]),
        Route("/v1/models/{name:path}", _Endpoint(routes.model), methods=["GET"]),
        Route("/health", _Endpoint(routes.health), methods=["GET"]),
        Route("/metrics", _Endpoint(routes.show_metrics), methods=["GET"]),
    ]
    app = Starlette(routes=table, exception_handlers={HTTPException: _answer_http_exception})
    return _guarded(app, access, metrics)


@dataclass(frozen=True)
class _Endpoint:
    """A function of an exchange as an ASGI application."""

    function: Callable[[Exchange], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self.function(exchange)
        except ClientGone:
            log.debug("a client hung up")
        except ApiError as error:
            await _send_error(exchange, error)
        except Exception as error:
            log.exception("A request failed")
            message = f"The server failed: {type(error).__name__}. Its log says more."
            await _send_error(exchange, ApiError(500, message))


async def _send_error(exchange: Exchange, error: ApiError) -> None:
    with suppress(ClientGone):
        await exchange.send_error(error)


async def _answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    if error.status_code == 405:
        message = f"{method} is not allowed at {path}."
    elif error.status_code == 404:
        message = f"There is nothing at {path}. This server answers {', '.join(PATHS)}."
    else:
        message = str(error.detail)
    body = ApiError(error.status_code, message).body
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


def _guarded(app: ASGIApp, access: Access, metrics: Metrics) -> ASGIApp:
    """The application behind the checks of access; answers are counted."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        status: int | None = None

        async def counting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        exchange = Exchange(scope, receive, counting_send)
        try:
            access.check(scope["path"], exchange.headers)
            await app(scope, receive, counting_send)
        except ApiError as error:
            await _send_error(exchange, error)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            metrics.count_answer(path, status)

    return guarded
