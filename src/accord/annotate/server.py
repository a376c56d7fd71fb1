"""The page's server: an ASGI application on one queue, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accord.annotate import routes
from accord.annotate.chat_model import ChatModel
from accord.annotate.chat_routes import ChatRoutes
from accord.annotate.chats import ChatDesk
from accord.annotate.desk import Desk
from accord.annotate.rendering import visible_controls
from accord.annotate.security import HEADERS, Site, refuse
from accord.annotate.visits import Page, for_anyone, for_people
from accord.machine.loopback import listen

THREADS = 4  # at work on the database at once: its pool retains five connections
TALKERS = 16  # people who wait for a model's answer at once
FOLDER = Path(__file__).resolve().parent


def create_app(
    desk: Desk,
    site: Site,
    *,
    annotator: str | None,
    guideline_text: str | None = None,
    model: ChatModel | None = None,
) -> ASGIApp:
    """The application. With an `annotator` everyone who reaches it is this person and its owner;
    with None a token is needed. A red team needs the `model` to talk with."""
    templates = Environment(
        loader=PackageLoader("accord.annotate"), autoescape=True, undefined=StrictUndefined
    )
    templates.filters["visible"] = visible_controls
    page = Page(desk, site, annotator, guideline_text, templates, anyio.CapacityLimiter(THREADS))
    table = [
        Route("/", for_people(page, routes.show_page)),
        Route("/enter", for_anyone(page, routes.show_enter)),
        Route("/api/enter", for_anyone(page, routes.enter), methods=["POST"]),
        Route("/api/leave", for_people(page, routes.leave), methods=["POST"]),
        Route("/api/answer", for_people(page, routes.answer), methods=["POST"]),
        Route("/api/test", for_people(page, routes.take_test), methods=["POST"]),
        *(_judging(page) if model is None else _talking(page, model)),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]
    return _guarded(Starlette(routes=table), site)


def _judging(page: Page) -> list[Route]:
    return [
        Route("/owner", for_people(page, routes.show_owner, owner=True)),
        Route("/api/next", for_people(page, routes.next_item), methods=["POST"]),
        Route("/api/undo", for_people(page, routes.undo), methods=["POST"]),
        Route("/api/renew", for_people(page, routes.renew), methods=["POST"]),
        Route("/api/difference", for_people(page, routes.difference)),
        Route("/api/rest", for_people(page, routes.rest)),
    ]


def _talking(page: Page, model: ChatModel) -> list[Route]:
    chat = ChatRoutes(ChatDesk(page.desk, model), anyio.CapacityLimiter(TALKERS))
    return [
        Route("/owner", for_people(page, chat.owner, owner=True)),
        Route("/api/next", for_people(page, chat.next), methods=["POST"]),
        Route("/api/say", for_people(page, chat.say), methods=["POST"]),
        Route("/api/undo", for_people(page, chat.undo), methods=["POST"]),
        Route("/api/rest", for_people(page, chat.rest)),
    ]


def _guarded(app: ASGIApp, site: Site) -> ASGIApp:
    """The application behind the checks of `security`, below its prefix and with its headers."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        reason = refuse(site, scope["method"], headers)
        if reason is not None:
            await JSONResponse({"error": reason}, 403)(scope, receive, send_with_headers)
            return
        path: str = scope["path"]
        # A proxy may strip the prefix or pass it on.
        if site.prefix and (path == site.prefix or path.startswith(site.prefix + "/")):
            path = path.removeprefix(site.prefix)
        scope = {**scope, "path": path or "/", "raw_path": (path or "/").encode()}
        await app(scope, receive, send_with_headers)

    return guarded


def run(app: ASGIApp, site: Site, *, log: Callable[[str], object]) -> None:
    """Serve until interrupted. Raises RequestError where the port can't be used."""
    import uvicorn

    config = uvicorn.Config(
        app,
        host=site.host,
        port=site.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=75,  # people read between two requests
        timeout_graceful_shutdown=3,
    )
    listener = listen(site.host, site.port)
    log(f"The page is at {site.address} (Ctrl-C ends this; every vote is stored at once).")
    with suppress(KeyboardInterrupt):  # how a user ends it
        uvicorn.Server(config).run(sockets=[listener])
