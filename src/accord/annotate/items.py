"""An assignment as the page shows it: the conversation, the responses, what to beware of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from accord.annotate.identity import named_model
from accord.annotate.rendering import LONG, PART, markdown_html, plain_html
from accord.compare.store.assignments import Assignment
from accord.compare.store.queue import ItemTexts
from accord.records import Prompt, answer_text, prompt_context
from accord.settings.annotate import AnnotateSettings

LETTERS = "ABCDEFGH"
OPEN_TURNS = 2  # the last turns of a conversation, which are not folded
QUESTIONS = {
    "pairs": "Which response is better?",
    "rankings": "Rank the responses, the best first.",
    "labels": "Is this response good?",
}


@dataclass(frozen=True, slots=True)
class ShownText:
    """A text as Markdown and as it is; `rest` is the number of characters not shown yet."""

    rendered: Markup
    raw: Markup
    rest: int = 0


@dataclass(frozen=True, slots=True)
class ShownTurn:
    """A turn of a conversation; `role` is empty for a prompt of plain text."""

    role: str
    text: ShownText


@dataclass(frozen=True, slots=True)
class ShownResponse:
    """A response under its letter; `named` is the model that it names, if it does."""

    letter: str
    text: ShownText
    named: str | None


@dataclass(frozen=True, slots=True)
class ShownItem:
    """All that the page shows of an item. `folded` turns stand before `turns`."""

    id: int
    task: str
    question: str
    criterion: str | None
    folded: tuple[ShownTurn, ...]
    turns: tuple[ShownTurn, ...]
    responses: tuple[ShownResponse, ...]
    earlier: dict[str, Any] | None
    revises: int | None
    closed: float | None


def show_item(
    assignment: Assignment, texts: ItemTexts, settings: AnnotateSettings, *, revising: bool
) -> ShownItem:
    """The item of an assignment; `revising` an answer shows it as it was given."""
    turns = [ShownTurn(role, show_text(text)) for role, text in turn_texts(texts.prompt)]
    criterion = assignment.item.criterion
    question = settings.criteria.get(criterion or "") or settings.question
    return ShownItem(
        id=assignment.item.id,
        task=settings.task,
        question=question or QUESTIONS[settings.task],
        criterion=criterion,
        folded=tuple(turns[:-OPEN_TURNS]),
        turns=tuple(turns[-OPEN_TURNS:]),
        responses=tuple(
            ShownResponse(letter, show_text(text), named_model(text, model))
            for letter, text, model in zip(LETTERS, texts.responses, texts.models, strict=False)
        ),
        earlier=dict(assignment.answer or {}) if revising else None,
        revises=(assignment.verdict_id or 0) if revising else None,
        closed=assignment.closed if revising else None,
    )


def show_text(text: str) -> ShownText:
    """A text, of a very long one the first part only."""
    if len(text) > LONG:
        part = plain_html(text[:PART])
        return ShownText(part, part, len(text) - PART)
    return ShownText(markdown_html(text), plain_html(text))


def turn_texts(prompt: Prompt) -> list[tuple[str, str]]:
    """The role and text of each turn that the page shows, in order."""
    if isinstance(prompt, str):
        return [("", prompt)]
    context = "\n".join(f"{key}: {value}" for key, value in prompt_context(prompt).items())
    turns: list[tuple[str, str]] = [("context", context)] if context else []
    turns += [(turn.role, answer_text(turn.content, turn.fields)) for turn in prompt]
    return turns
