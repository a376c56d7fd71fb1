"""The messages of a chat request as a conversation, and the variables for its chat template."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta

from accord.records import Message, Role, fields_json, with_context
from accord.serve.errors import ApiError

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
RESERVED = ("messages", "raise_exception", "strftime_now")
TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(messages: Any, template: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation, its first turn with the variables for the `template` as context.

    Raises ApiError (400) where a message can't be read as text.
    """
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "`messages` must be a list of at least one message.", param="messages")
    turns = tuple(_read_message(message, i) for i, message in enumerate(messages))
    return with_context(turns, template) if template else turns


def _read_message(message: Any, index: int) -> Message:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise ApiError(400, f"`{where}` must be an object with role and content.", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise ApiError(
            400, f"`{where}.role` is {role!r}; it must be one of {known}.", param=f"{where}.role"
        )
    fields = {
        key: value
        for key, value in message.items()
        if key not in ("role", "content") and value is not None and value != []
    }
    content = message.get("content")
    if content is None and "tool_calls" in fields:
        return Message(ROLES[role], "", fields_json({"content": None, **fields}))
    return Message(ROLES[role], _read_content(content, where), fields_json(fields))


def _read_content(content: Any, where: str) -> str:
    """The text of a content; that of several parts is joined by line breaks."""
    if isinstance(content, str):
        return content
    where = f"{where}.content"
    if not isinstance(content, list) or not content:
        raise ApiError(400, f"`{where}` must be text, or a list of text parts.", param=where)
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind not in TEXT_PARTS or not isinstance(text, str):
            raise ApiError(
                400,
                f"`{where}[{i}]` is a part of type {kind!r}. This server reads text only: give "
                'parts as {"type": "text", "text": …}.',
                param=where,
            )
        texts.append(text)
    return "\n".join(texts)


def check_template_variables(variables: Mapping[str, Any], tokenizer: Any) -> None:
    """Raise ApiError (400) for a variable that the tokenizer's chat template does not read, or
    that would change what `apply_chat_template` itself does."""
    reserved = {*RESERVED, *inspect.signature(type(tokenizer).apply_chat_template).parameters}
    template = getattr(tokenizer, "chat_template", None) or ""
    sources = template.values() if isinstance(template, dict) else [template]
    read = _variables(tuple(map(str, sources)))
    for name in variables:
        reason = None
        if name in reserved or name.endswith("_token"):
            reason = "belongs to the rendering itself, and is no variable for requests to set"
        elif name not in read:
            reason = "is not read by this model's chat template"
        if reason is not None:
            raise ApiError(
                400,
                f"`chat_template_kwargs.{name}` {reason}. Leave it out.",
                param="chat_template_kwargs",
            )


@lru_cache(maxsize=8)
def _variables(sources: tuple[str, ...]) -> frozenset[str]:
    """The names that templates read and do not set themselves; all their words where the parser
    does not know an extension that transformers adds (`{% generation %}`)."""
    names: set[str] = set()
    for source in sources:
        environment = Environment(extensions=["jinja2.ext.loopcontrols"])
        try:
            names |= meta.find_undeclared_variables(environment.parse(source))
        except (TemplateSyntaxError, RecursionError):
            names |= set(re.findall(r"[A-Za-z_]\w*", source))
    return frozenset(names)
