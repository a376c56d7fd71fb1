"""What each address of the page answers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from accord.annotate.answers import finite_number
from accord.annotate.desk import ADJUDICATOR
from accord.annotate.difference import difference_html
from accord.annotate.items import show_item, turn_texts
from accord.annotate.owner import owner_view
from accord.annotate.rendering import markdown_html
from accord.annotate.visits import COOKIE, Page, Visit
from accord.compare.store.assignments import Assignment
from accord.compare.store.people import Person
from accord.compare.texts import visible_controls
from accord.errors import RequestError

MAX_ID = 2**31
MAX_AGE = 30 * 24 * 3600  # seconds that a session lasts


async def show_page(visit: Visit) -> Response:
    page = visit.page
    passed = await page.work(page.desk.test_passed, visit.person.name)
    guideline = None if page.guideline_text is None else markdown_html(page.guideline_text)
    adjudicated = number(visit.request, "item") if visit.person.is_owner else None
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
    adjudicated = (await visit.body()).get("adjudicate")
    if adjudicated is not None and visit.person.is_owner:
        work = partial(_adjudicated, visit, item_id(adjudicated))
    else:
        work = partial(_next, visit)

    def show() -> dict[str, Any]:
        return {**work(), "progress": visit.page.desk.progress(visit.person.name)}

    return JSONResponse(await visit.page.work(show))


async def answer(visit: Visit) -> Response:
    body = await visit.body()
    item = item_id(body.get("item"))
    name = visit.person.name
    if body.get("adjudicates") is True and visit.person.is_owner:
        name += ADJUDICATOR
    saved = await visit.page.work(visit.page.desk.answer, name, item, body, session=visit.session)
    return JSONResponse({"saved": True, "verdict": saved.verdict_id})


async def undo(visit: Visit) -> Response:
    before = read_before(await visit.body())
    return JSONResponse(await visit.page.work(_earlier, visit, before))


async def renew(visit: Visit) -> Response:
    item = item_id((await visit.body()).get("item"))
    still = await visit.page.work(visit.page.desk.renew, visit.person.name, item)
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


async def difference(visit: Visit) -> Response:
    """The responses of an item with the words marked that another one lacks: the first's against
    the second, and each other's against the first."""
    texts = (await _assigned_texts(visit)).responses

    def compare() -> list[str | None]:
        return [difference_html(text, texts[1 if i == 0 else 0]) for i, text in enumerate(texts)]

    if len(texts) < 2:
        raise RequestError("There is only one response.")
    return JSONResponse({"html": await visit.page.work(compare)})


async def rest(visit: Visit) -> Response:
    """The whole of a long text: of a response (`response=0`) or of a turn (`turn=0`)."""
    texts = await _assigned_texts(visit)
    position, turn = number(visit.request, "response"), number(visit.request, "turn")
    if position is not None and position < len(texts.responses):
        return PlainTextResponse(visible_controls(texts.responses[position]))
    turns = turn_texts(texts.prompt)
    if turn is not None and turn < len(turns):
        return PlainTextResponse(visible_controls(turns[turn][1]))
    raise RequestError("There is no such text.")


def _next(visit: Visit) -> dict[str, Any]:
    desk, name = visit.page.desk, visit.person.name
    if not desk.test_passed(name):
        raise RequestError("Answer the questions on the guidelines first.")
    assignment = desk.next(name)
    if assignment is None:
        return {"item": None, "html": visit.page.html("done.html.j2")}
    return _shown(visit, assignment, revising=False)


def _adjudicated(visit: Visit, item_id: int) -> dict[str, Any]:
    assignment = visit.page.desk.adjudicate(item_id, visit.person.name)
    if assignment is None:
        raise RequestError(f"There is no item {item_id}.")
    return _shown(visit, assignment, revising=assignment.key is not None)


def _earlier(visit: Visit, before: float | None) -> dict[str, Any]:
    assignment = visit.page.desk.earlier(visit.person.name, before)
    if assignment is None:
        raise RequestError("There is no earlier answer.")
    return _shown(visit, assignment, revising=True)


def _shown(visit: Visit, assignment: Assignment, *, revising: bool) -> dict[str, Any]:
    page = visit.page
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


async def _assigned_texts(visit: Visit) -> Any:
    item = number(visit.request, "item")
    names = [visit.person.name]
    if visit.person.is_owner:
        names.append(visit.person.name + ADJUDICATOR)
    for name in names if item is not None else ():
        assignment = await visit.page.work(visit.page.desk.assigned, name, item)
        if assignment is not None:
            return await visit.page.work(visit.page.desk.texts, assignment)
    raise RequestError("This item is not yours to see.")


def read_before(body: Mapping[str, Any]) -> float | None:
    """The time before which an answer was given. Raises RequestError."""
    before = finite_number(body.get("before"))
    if before is None and body.get("before") is not None:
        raise RequestError("`before` is no time.")
    return before


def item_id(value: Any) -> int:
    """An item's id. Raises RequestError for what can't be one, or is more than a column holds."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < MAX_ID:
        raise RequestError(f"{value!r} is no item.")
    return value


def number(request: Request, name: str) -> int | None:
    """A whole number in the query; None for anything else."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
