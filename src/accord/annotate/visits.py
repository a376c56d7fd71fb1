"""A request to the page by someone who may enter, and what those who may not are shown."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from jinja2 import Environment
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from accord.annotate.desk import Desk
from accord.annotate.security import Site
from accord.compare.store.people import Person
from accord.errors import AccordError, ConflictError, RequestError

T = TypeVar("T")
COOKIE = "accord_session"
MAX_BODY = 256 * 1024  # bytes


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


def for_anyone(page: Page, function: Callable[[Page, Request], Awaitable[Response]]) -> Any:
    async def respond(request: Request) -> Response:
        return await _with_errors(request, function(page, request))

    return respond


def for_people(page: Page, function: Answer, *, owner: bool = False) -> Any:
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
