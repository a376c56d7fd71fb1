"""The page's server: an ASGI application on one queue, and how it is run."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accord.annotate.desk import ADJUDICATOR, Desk
from accord.annotate.difference import difference_html
from accord.annotate.items import show_item
from accord.annotate.owner import owner_view
from accord.annotate.rendering import markdown_html, visible_controls
from accord.annotate.security import HEADERS, Site, refuse
from accord.compare.store.assignments import Assignment
from accord.compare.store.people import Person
from accord.errors import AccordError, ConflictError, RequestError

T = TypeVar("T")
COOKIE = "accord_session"
MAX_BODY = 256 * 1024  # bytes
MAX_AGE = 30 * 24 * 3600  # seconds that a session lasts
THREADS = 8  # at work on the database at once, fewer than its pool has connections
FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Page:
    """The application's parts: the queue, where the page is, and who the visitor is where nobody
    needs a token (on the loopback interface)."""

    desk: Desk
    site: Site
    annotator: str | None
    guideline_text: str | None
    templates: Environment
    limiter: anyio.CapacityLimiter

    async def work(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run what waits for the database or renders text in a thread."""
        return await anyio.to_thread.run_sync(
            partial(function, *arguments, **options), limiter=self.limiter
        )

    def html(self, name: str, **values: Any) -> str:
        return self.templates.get_template(name).render(settings=self.desk.settings, **values)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request by someone who may enter."""

    page: Page
    request: Request
    person: Person
    session: str

    async def body(self) -> dict[str, Any]:
        """The request's JSON object. Raises RequestError."""
        received = bytearray()
        async for chunk in self.request.stream():
            received += chunk
            if len(received) > MAX_BODY:
                raise RequestError(f"A request has more than {MAX_BODY:,} bytes.")
        try:
            value = json.loads(received or b"{}")
        except (ValueError, RecursionError):
            raise RequestError("A request is not JSON.") from None
        if not isinstance(value, dict):
            raise RequestError("A request is not a JSON object.")
        return value


Answer = Callable[[Visit], Awaitable[Response]]


def create_app(
    desk: Desk, site: Site, *, annotator: str | None, guideline_text: str | None = None
) -> ASGIApp:
    """The application. With an `annotator` everyone who reaches it is this person and its owner;
    with None a token is needed."""
    templates = Environment(
        loader=PackageLoader("accord.annotate"), autoescape=True, undefined=StrictUndefined
    )
    templates.filters["visible"] = visible_controls
    page = Page(
        desk, site, annotator, guideline_text, templates, anyio.CapacityLimiter(THREADS)
    )
    routes = [
        Route("/", _for_people(page, show_page)),
        Route("/owner", _for_people(page, show_owner, owner=True)),
        Route("/enter", _open(page, show_enter)),
        Route("/api/enter", _open(page, enter), methods=["POST"]),
        Route("/api/leave", _for_people(page, leave), methods=["POST"]),
        Route("/api/next", _for_people(page, next_item), methods=["POST"]),
        Route("/api/answer", _for_people(page, answer), methods=["POST"]),
        Route("/api/undo", _for_people(page, undo), methods=["POST"]),
        Route("/api/renew", _for_people(page, renew), methods=["POST"]),
        Route("/api/test", _for_people(page, take_test), methods=["POST"]),
        Route("/api/progress", _for_people(page, progress)),
        Route("/api/difference", _for_people(page, difference)),
        Route("/api/rest", _for_people(page, rest)),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]
    return _guarded(Starlette(routes=routes), site)


async def show_page(visit: Visit) -> Response:
    page = visit.page
    passed = await page.work(page.desk.test_passed, visit.person.name)
    guideline = None if page.guideline_text is None else markdown_html(page.guideline_text)
    adjudicated = _number(visit.request, "item") if visit.person.is_owner else None
    html = page.html(
        "page.html.j2",
        person=visit.person,
        guideline=guideline,
        passed=passed,
        adjudicated=adjudicated,
        with_tokens=page.annotator is None,
    )
    return HTMLResponse(html)


async def show_owner(visit: Visit) -> Response:
    view = await visit.page.work(owner_view, visit.page.desk)
    return HTMLResponse(visit.page.html("owner.html.j2", person=visit.person, view=view))


async def show_enter(page: Page, request: Request) -> Response:
    return HTMLResponse(page.html("enter.html.j2"))


async def enter(page: Page, request: Request) -> Response:
    body = await Visit(page, request, Person("", "annotator"), "").body()
    token = body.get("token")
    secret = await page.work(page.desk.enter, token) if isinstance(token, str) else None
    if secret is None:
        return JSONResponse({"error": "This invitation is not valid (any more)."}, 403)
    response = JSONResponse({"entered": True})
    response.set_cookie(
        COOKIE,
        secret,
        max_age=MAX_AGE,
        path=page.site.prefix + "/",
        secure=page.site.is_https,
        httponly=True,
        samesite="strict",
    )
    return response


async def leave(visit: Visit) -> Response:
    secret = visit.request.cookies.get(COOKIE)
    if secret:
        await visit.page.work(visit.page.desk.leave, secret)
    response = JSONResponse({"left": True})
    response.delete_cookie(COOKIE, path=visit.page.site.prefix + "/")
    return response


async def next_item(visit: Visit) -> Response:
    desk, name = visit.page.desk, visit.person.name
    body = await visit.body()
    item_id = body.get("adjudicate")
    if item_id is not None and visit.person.is_owner and isinstance(item_id, int):
        assignment = await visit.page.work(desk.adjudicate, item_id, name)
        if assignment is None:
            raise RequestError(f"There is no item {item_id}.")
        return await _item_response(visit, assignment, revising=assignment.key is not None)
    if not await visit.page.work(desk.test_passed, name):
        raise RequestError("Answer the questions on the guidelines first.")
    assignment = await visit.page.work(desk.next, name)
    if assignment is None:
        return JSONResponse({"item": None, "html": visit.page.html("done.html.j2")})
    return await _item_response(visit, assignment, revising=False)


async def answer(visit: Visit) -> Response:
    body = await visit.body()
    item_id = body.get("item")
    if not isinstance(item_id, int):
        raise RequestError("An answer names no item.")
    name = visit.person.name
    if body.get("adjudicates") is True and visit.person.is_owner:
        name += ADJUDICATOR
    saved = await visit.page.work(
        visit.page.desk.answer, name, item_id, body, session=visit.session
    )
    return JSONResponse({"saved": True, "verdict": saved.verdict_id})


async def undo(visit: Visit) -> Response:
    before = (await visit.body()).get("before")
    if before is not None and not isinstance(before, int | float):
        raise RequestError("`before` is no time.")
    assignment = await visit.page.work(visit.page.desk.earlier, visit.person.name, before)
    if assignment is None:
        raise RequestError("There is no earlier answer.")
    return await _item_response(visit, assignment, revising=True)


async def renew(visit: Visit) -> Response:
    item_id = (await visit.body()).get("item")
    if not isinstance(item_id, int):
        raise RequestError("No item is named.")
    still = await visit.page.work(visit.page.desk.renew, visit.person.name, item_id)
    return JSONResponse({"yours": still})


async def take_test(visit: Visit) -> Response:
    chosen = (await visit.body()).get("answers")
    test = visit.page.desk.settings.test
    if not (
        isinstance(chosen, list)
        and len(chosen) == len(test)
        and all(isinstance(each, int) for each in chosen)
    ):
        raise RequestError("Answer every question.")
    wrong = await visit.page.work(visit.page.desk.take_test, visit.person.name, chosen)
    return JSONResponse({"wrong": wrong})


async def progress(visit: Visit) -> Response:
    return JSONResponse(await visit.page.work(visit.page.desk.progress, visit.person.name))


async def difference(visit: Visit) -> Response:
    """The responses of an item with the words marked that another one lacks: the first's against
    the second, and each other's against the first."""
    texts = (await _assigned_texts(visit)).responses

    def compare() -> list[str | None]:
        return [
            difference_html(text, texts[1 if i == 0 else 0]) for i, text in enumerate(texts)
        ]

    if len(texts) < 2:
        raise RequestError("There is only one response.")
    return JSONResponse({"html": await visit.page.work(compare)})


async def rest(visit: Visit) -> Response:
    """The whole of a long text: of a response (`response=0`) or of a turn (`turn=0`)."""
    texts = await _assigned_texts(visit)
    position, turn = _number(visit.request, "response"), _number(visit.request, "turn")
    if position is not None and position < len(texts.responses):
        return PlainTextResponse(visible_controls(texts.responses[position]))
    shown = [texts.prompt] if isinstance(texts.prompt, str) else [t.content for t in texts.prompt]
    if turn is not None and turn < len(shown):
        return PlainTextResponse(visible_controls(shown[turn]))
    raise RequestError("There is no such text.")


async def _item_response(visit: Visit, assignment: Assignment, *, revising: bool) -> Response:
    page = visit.page

    def render() -> dict[str, Any]:
        texts = page.desk.texts(assignment)
        shown = show_item(assignment, texts, page.desk.settings, revising=revising)
        return {
            "item": shown.id,
            "task": shown.task,
            "size": len(shown.responses),
            "revises": shown.revises,
            "earlier": shown.earlier,
            "closed": shown.closed,
            "html": page.html("item.html.j2", item=shown),
        }

    return JSONResponse(await page.work(render))


async def _assigned_texts(visit: Visit) -> Any:
    item_id = _number(visit.request, "item")
    names = [visit.person.name]
    if visit.person.is_owner:
        names.append(visit.person.name + ADJUDICATOR)
    for name in names if item_id is not None else ():
        assignment = await visit.page.work(visit.page.desk.assigned, name, item_id)
        if assignment is not None:
            return await visit.page.work(visit.page.desk.texts, assignment)
    raise RequestError("This item is not yours to see.")


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None


def _open(page: Page, function: Callable[[Page, Request], Awaitable[Response]]) -> Any:
    async def respond(request: Request) -> Response:
        return await _with_errors(request, function(page, request))

    return respond


def _for_people(page: Page, function: Answer, *, owner: bool = False) -> Any:
    """The function for those who may enter; for the others the door."""

    async def respond(request: Request) -> Response:
        secret = request.cookies.get(COOKIE, "")
        if page.annotator is not None:
            person: Person | None = Person(page.annotator, "owner")
        else:
            person = await page.work(page.desk.person, secret) if secret else None
        if person is None or (owner and not person.is_owner):
            if request.method == "GET" and "/api/" not in request.url.path:
                status = 401 if person is None else 403
                return HTMLResponse(page.html("enter.html.j2"), status)
            return JSONResponse({"error": "Open your invitation's link first."}, 401)
        session = request.headers.get("x-accord-session", "")[:64]
        return await _with_errors(request, function(Visit(page, request, person, session)))

    return respond


async def _with_errors(request: Request, response: Awaitable[Response]) -> Response:
    try:
        return await response
    except ClientDisconnect:
        return Response(status_code=400)
    except AccordError as error:
        status = 409 if isinstance(error, ConflictError) else 400
        status = status if isinstance(error, RequestError) else 503
        return JSONResponse({"error": str(error)}, status)


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


def new_session() -> str:
    """An id for a visit, for the store."""
    return secrets.token_hex(8)


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
        timeout_graceful_shutdown=3,
    )
    log(f"The page is at {site.address} (Ctrl-C ends this; every vote is stored at once).")
    uvicorn.Server(config).run(sockets=[_bind(site)])


def _bind(site: Site) -> Any:
    import errno
    import socket

    family = socket.AF_INET6 if ":" in site.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((site.host, site.port))
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: "in use",
            errno.EACCES: "not allowed to this user",
            errno.EADDRNOTAVAIL: "at an address that this machine does not have",
        }.get(error.errno or 0, str(error.strerror or error))
        raise RequestError(
            f"Port {site.port} on {site.host} is {reason}. Choose another with --port, such as "
            f"{site.port + 1}, or another --host."
        ) from None
    return listener
