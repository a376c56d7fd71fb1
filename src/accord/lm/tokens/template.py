"""Prompts and plain text as token ids, by the tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from accord.data.columns import DialogueText
from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.render_turns import render_turns
from accord.records import Message, Prompt, message_json, parse_fields, prompt_context, turns_json

_added_cache: WeakKeyDictionary[Any, tuple[Any, tuple[list[int], list[int]]]] = WeakKeyDictionary()

_begin_cache: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


def encode_prompt(prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a prompt for the model to continue: the rendered chat template, or the text.

    Raises DataError for a conversation when the tokenizer has no chat template, and UnusableRow
    where the template refuses it.
    """
    if isinstance(prompt, str):
        return tuple(encode_text(tokenizer, prompt)) or (start_token_id(tokenizer),)
    return tuple(tokenize_text(tokenizer, render_prompt(prompt, tokenizer)))


def render_prompt(prompt: Prompt, tokenizer: Any) -> str:
    """The chat template's text of a conversation, up to where the answer begins.

    A last turn of the assistant's is the beginning of that answer: the text ends within it.
    """
    continues = ends_with_assistant(prompt)
    return render_turns(
        tokenizer,
        turns_json(prompt),
        prompt_context(prompt),
        generation_prompt=not continues,
        continue_last=continues,
    )


def render_answered(prompt: Prompt, response: str, tokenizer: Any, fields: str = "") -> str:
    """The chat template's text of a conversation with its answer; `fields` are the answer's, as a
    `Message` has them."""
    turns = turns_json(prompt)
    if ends_with_assistant(prompt):
        begun = turns.pop()
        content = (begun["content"] or "") + response
        answer = {**begun, **parse_fields(fields), "content": content}
    else:
        answer = message_json(Message("assistant", response, fields))
    return render_turns(
        tokenizer, [*turns, answer], prompt_context(prompt), generation_prompt=False
    )


def ends_with_assistant(prompt: Prompt) -> bool:
    """Whether a prompt's last turn is the beginning of the answer."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1].role == "assistant"


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a plain text to be continued, with what the tokenizer puts before a text.

    Text that begins with that already (rendered text begins with BOS) does not get it twice. What
    the tokenizer puts behind a text, such as EOS, is left out: the text has not ended.
    """
    ids = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    before, after = _added_around(tokenizer)
    if after and ids[-len(after) :] == after:
        ids = ids[: -len(after)]
    if before and ids[len(before) : 2 * len(before)] == before:
        ids = ids[len(before) :]
    return ids


def start_ids(tokenizer: Any) -> tuple[int, ...]:
    """The tokens before a text that no prompt precedes; none where the tokenizer has no such.

    They are what the tokenizer puts before every text, or else the BOS that its conversations begin
    with: a model that never saw BOS (ChatML's do not) should not see it before a text either.
    """
    before, _ = _added_around(tokenizer)
    if not before and getattr(tokenizer, "chat_template", None) and tokenizer.bos_token:
        with suppress(UnusableRow):
            if _begin_conversation(tokenizer).startswith(str(tokenizer.bos_token)):
                return (int(tokenizer.bos_token_id),)
    return tuple(before)


def _begin_conversation(tokenizer: Any) -> str:
    cached = _begin_cache.get(tokenizer)
    if cached is None or cached[0] != tokenizer.chat_template:
        text = render_prompt((Message("user", "o"),), tokenizer)
        cached = _begin_cache[tokenizer] = (tokenizer.chat_template, text)
    return cached[1]


def _added_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer adds before and behind a text."""
    state = (getattr(tokenizer, "add_bos_token", None), getattr(tokenizer, "add_eos_token", None))
    cached = _added_cache.get(tokenizer)
    if cached is not None and cached[0] == state:
        return cached[1]
    text = "a"
    plain = tokenize_text(tokenizer, text)
    ids = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    starts = range(len(ids) - len(plain) + 1)
    start = next((i for i in starts if ids[i : i + len(plain)] == plain), None)
    added = ([], []) if start is None else (ids[:start], ids[start + len(plain) :])
    _added_cache[tokenizer] = (state, added)
    return added


def refuse_control_tokens(prompt: Prompt, responses: Sequence[str], tokenizer: Any) -> None:
    """Raise UnusableRow for a conversation whose text spells one of the tokenizer's control tokens.

    The tokenizer would encode it as that token, which could forge a turn or end a response early.
    Tags of an answer that are special tokens (`<think>`) are no control tokens: see `control`.
    Plain text is not checked, since it may have been rendered with such tokens on purpose.
    """
    if isinstance(prompt, str):
        return
    parts = [t for turn in prompt for t in (turn.content, turn.fields, turn.context) if t]
    parts += responses
    control = control_tokens(tokenizer)
    for token in control.texts:
        if any(token in part for part in parts):
            raise UnusableRow(f"its text spells the control token {token}")
    for part in parts if control.normalized else ():
        spelled = control.normalized.intersection(tokenize_text(tokenizer, part))
        if spelled:
            token = tokenizer.convert_ids_to_tokens(min(spelled))
            raise UnusableRow(f"its text spells the control token {token}")


def how_to_read_dialogues(setting: DialogueText, tokenizer: Any) -> DialogueText:
    """How text that looks like a dialogue is read: by the setting, but as text where the tokenizer
    has no chat template."""
    if setting == "turns" and not getattr(tokenizer, "chat_template", None):
        return "no template"
    return setting


def is_plain_prompt(prompt: Prompt, tokenizer: Any) -> bool:
    """Whether a prompt is text to continue although the tokenizer has a chat template."""
    return isinstance(prompt, str) and bool(getattr(tokenizer, "chat_template", None))


def start_token_id(tokenizer: Any) -> int:
    """The token before a text that has no prompt: BOS, or EOS where there is no BOS."""
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def tokenize_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, without added special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def tokenize_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """`tokenize_text` of several texts in one call, which takes less time than one for each."""
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
