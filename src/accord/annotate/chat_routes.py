"""What the addresses of a red team's page answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from accord.annotate.chat_owner import chats_view
from accord.annotate.chats import ChatDesk
from accord.annotate.items import ShownText, show_text
from accord.annotate.routes import item_id, number, read_before
from accord.annotate.visits import Visit
from accord.compare.store.assignments import Assignment
from accord.compare.store.chats import Chat
from accord.compare.texts import visible_controls
from accord.errors import RequestError


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A turn on the page; `answer` is the number of a model's answer, from 0."""

    role: str
    text: ShownText
    answer: int | None
    cut: bool


@dataclass(frozen=True, slots=True)
class ShownChat:
    """A conversation on the page; `revises` is the verdict that is being changed."""

    turns: tuple[ChatTurn, ...]
    answers: int
    revises: int | None


@dataclass(frozen=True, slots=True)
class ChatRoutes:
    """The functions of the addresses; `talkers` limits how many wait for the model at once, apart
    from the threads that work on the database."""

    chats: ChatDesk
    talkers: anyio.CapacityLimiter

    async def next(self, visit: Visit) -> Response:
        return JSONResponse(await visit.page.work(self._next, visit))

    async def say(self, visit: Visit) -> Response:
        body = await visit.body()
        if not await visit.page.work(self.chats.desk.test_passed, visit.person.name):
            raise RequestError("Answer the questions on the guidelines first.")
        work = partial(self.chats.say, visit.person.name, item_id(body.get("item")), body)
        chat = await anyio.to_thread.run_sync(work, limiter=self.talkers)
        return JSONResponse(await visit.page.work(self._shown, visit, *chat, revising=False))

    async def undo(self, visit: Visit) -> Response:
        before = read_before(await visit.body())
        return JSONResponse(await visit.page.work(self._earlier, visit, before))

    async def rest(self, visit: Visit) -> Response:
        """The whole of a long turn."""
        item, turn = number(visit.request, "item"), number(visit.request, "turn")
        if item is not None:
            _, chat = await visit.page.work(self.chats.find, visit.person.name, item)
            if turn is not None and turn < len(chat.turns):
                return PlainTextResponse(visible_controls(chat.turns[turn].content))
        raise RequestError("There is no such text.")

    async def owner(self, visit: Visit) -> Response:
        view = await visit.page.work(chats_view, self.chats.desk)
        html = visit.page.html("chat_owner.html.j2", person=visit.person, view=view)
        return HTMLResponse(html)

    def _next(self, visit: Visit) -> dict[str, Any]:
        if not self.chats.desk.test_passed(visit.person.name):
            raise RequestError("Answer the questions on the guidelines first.")
        return self._shown(visit, *self.chats.open(visit.person.name), revising=False)

    def _earlier(self, visit: Visit, before: float | None) -> dict[str, Any]:
        assignment = self.chats.desk.earlier(visit.person.name, before)
        if assignment is None:
            raise RequestError("There is no earlier verdict.")
        chat = self.chats.find(visit.person.name, assignment.item.id)
        return self._shown(visit, *chat, revising=True)

    def _shown(
        self, visit: Visit, assignment: Assignment, chat: Chat, *, revising: bool
    ) -> dict[str, Any]:
        shown = show_chat(chat, (assignment.verdict_id or 0) if revising else None)
        return {
            "item": assignment.item.id,
            "answers": shown.answers,
            "revises": shown.revises,
            "earlier": assignment.answer if revising else None,
            "closed": assignment.closed if revising else None,
            "progress": self.chats.desk.progress(visit.person.name),
            "html": visit.page.html("chat.html.j2", chat=shown),
        }


def show_chat(chat: Chat, revises: int | None = None) -> ShownChat:
    """A conversation as the page shows it."""
    turns = []
    answers = 0
    for turn in chat.turns:
        is_answer = turn.role == "assistant"
        cut = is_answer and not chat.finished[answers]
        turns.append(
            ChatTurn(turn.role, show_text(turn.content), answers if is_answer else None, cut)
        )
        answers += is_answer
    return ShownChat(tuple(turns), answers, revises)
