"""Renders turns by a chat template, with what they hold beside their text: tool calls, thoughts.

Templates differ in what they read. Arguments of a call are an object or JSON text, and a turn
without content is null or empty: the row's form is rendered, or the other one where a template
misreads that (as text within text, as Python's notation, as the word None). A field that a template
does not write at all is found by rendering without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accord.lm.tokens.render import UnusableRow, render
from accord.records import Message, Prompt, message_json, prompt_context, turns_json

Turn = Mapping[str, Any]


def render_turns(
    tokenizer: Any,
    turns: Sequence[Turn],
    context: Mapping[str, Any],
    *,
    generation_prompt: bool,
    continue_last: bool = False,
) -> str:
    """`render` with `context`, the template's further variables, such as `tools`, and with calls
    in a form that the template reads. Raises what `render` raises."""

    def render_form(turns: Sequence[Turn]) -> str:
        return render(
            [dict(turn) for turn in turns],
            tokenizer,
            generation_prompt=generation_prompt,
            continue_last=continue_last,
            context=context,
        )

    return _render_in_readable_form(render_form, turns)


def _render_in_readable_form(render: Callable[[Sequence[Turn]], str], turns: Sequence[Turn]) -> str:
    calls = [call for turn in turns for call in _calls(turn)]
    has_null = any(turn.get("content") is None for turn in turns)
    arguments = [a for a in map(_arguments, calls) if a is not None]
    if not has_null and not arguments:
        return render(turns)
    forms = [turns]
    if arguments:
        forms.append([_with_other_arguments(turn) for turn in turns])
    if has_null:
        forms += [[{**t, "content": t.get("content") or ""} for t in form] for form in forms]
    failure: UnusableRow | None = None
    renderings = []
    for form in forms:
        try:
            text = render(form)
        except UnusableRow as error:
            failure = failure or error
            continue
        if not _is_misread(text, form):
            renderings.append(text)
    if not renderings:
        if failure is not None:
            raise failure
        raise UnusableRow("the chat template misreads the arguments of its tool calls")
    if not has_null:
        return renderings[0]
    fewest = min(text.count("None") for text in renderings)
    return next(text for text in renderings if text.count("None") == fewest)


def _calls(turn: Turn) -> list[Any]:
    calls = turn.get("tool_calls")
    return list(calls) if isinstance(calls, list | tuple) else []


def _arguments(call: Any) -> Any:
    """A call's arguments, of either form; None where it has none."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    return arguments if isinstance(arguments, str | Mapping) else None


def _with_other_arguments(turn: Turn) -> Turn:
    """The turn with each call's arguments as an object instead of JSON text, or the reverse."""
    if not _calls(turn):
        return turn
    return {**turn, "tool_calls": [_with_other_form(call) for call in _calls(turn)]}


def _with_other_form(call: Any) -> Any:
    arguments = _arguments(call)
    if arguments is None:
        return call
    if isinstance(arguments, Mapping):
        other: Any = json.dumps(arguments, ensure_ascii=False)
    else:
        try:
            other = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": {**call["function"], "arguments": other}}
    return {**call, "arguments": other}


def _is_misread(text: str, turns: Sequence[Turn]) -> bool:
    """Whether a template wrote JSON text as a text within JSON, or an object as Python does."""
    for turn in turns:
        for arguments in map(_arguments, _calls(turn)):
            if isinstance(arguments, str) and '"' in arguments:
                escaped = json.dumps(arguments, ensure_ascii=False)
                if escaped in text or json.dumps(arguments) in text:
                    return True
            elif isinstance(arguments, Mapping) and arguments and str(dict(arguments)) in text:
                return True
    return False


def unwritten_fields(
    prompt: Prompt, tokenizer: Any, response: str | None = None, fields: str = ""
) -> list[str]:
    """The fields of a conversation, of its turns and beside them, that the template leaves out.

    Raises UnusableRow where it leaves out a call.
    """
    if isinstance(prompt, str):
        return []
    turns, context = turns_json(prompt), prompt_context(prompt)
    begins_answer = response is None and turns[-1]["role"] != "assistant"
    if response is not None:
        turns.append(message_json(Message("assistant", response, fields)))
    plain = {"role", "content"}
    if not context and all(turn.keys() <= plain for turn in turns):
        return []

    def text_of(turns: Sequence[Turn], context: Mapping[str, Any]) -> str | None:
        try:
            return render_turns(tokenizer, turns, context, generation_prompt=begins_answer)
        except UnusableRow:
            return None

    whole = text_of(turns, context)
    if whole is None:
        return []  # what refuses it gives the reason
    for i in (i for i, turn in enumerate(turns) if _calls(turn)):
        if (
            text_of([*turns[:i], _without(turns[i], "tool_calls"), *turns[i + 1 :]], context)
            == whole
        ):
            raise UnusableRow("the chat template writes no tool_calls")
    keys = dict.fromkeys(k for turn in turns for k in turn if k not in (*plain, "tool_calls"))
    unwritten = [k for k in keys if text_of([_without(t, k) for t in turns], context) == whole]
    return unwritten + [
        key
        for key in context
        if text_of(turns, {k: v for k, v in context.items() if k != key}) == whole
    ]


def _without(turn: Turn, key: str) -> dict[str, Any]:
    rest = {k: v for k, v in turn.items() if k != key}
    return {**rest, "content": rest.get("content") or ""} if key == "tool_calls" else rest
