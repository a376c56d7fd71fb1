"""Prompts, conversations and responses as token ids, by the tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from accord.errors import DataError
from accord.lm.tokens.control import control_tokens
from accord.records import Prompt, prompt_json

_TURNS_REWRITTEN = "the chat template rewrites earlier turns, so their answers can't be found"


class UnusableRow(Exception):  # noqa: N818 - not an error: the row is counted and left out
    """A row can't be used; the message is the reason."""


def encode_prompt(prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a prompt for the model to continue: the rendered chat template, or the text.

    Raises DataError for a conversation when the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=True)["input_ids"]
        eos = tokenizer.eos_token_id
        if ids and ids[-1] == eos and tokenizer.bos_token_id != eos:
            ids = ids[:-1]  # some tokenizers end every text with EOS; a prompt has not ended
        return tuple(ids) or (start_token_id(tokenizer),)
    return tuple(tokenize_text(tokenizer, _render(prompt, tokenizer, None)))


def encode_response(
    prompt: Prompt,
    response: str,
    tokenizer: Any,
    eos_ids: frozenset[int],
    *,
    finished: bool = True,
    whole: bool = False,
) -> tuple[tuple[int, ...], bool]:
    """Token ids of a response to the prompt, ending with EOS, and whether EOS had to be added.

    A response that is not finished (cut when it was sampled) has no EOS, and no token at all where
    it has no text. What the template renders after the response's EOS (a line break, say) is not
    part of it, except with `whole`: a finished response to a conversation then ends where the
    rendered conversation does, and no EOS is added to it.
    """
    if not finished:
        ids, _ = encode_response(prompt, response, tokenizer, eos_ids)
        return ids[:-1], False
    if isinstance(prompt, str):
        tokens = tokenize_text(tokenizer, response)
    else:
        before = _render(prompt, tokenizer, None)
        after = _render(prompt, tokenizer, response)
        if not after.startswith(before):
            raise DataError(
                "The tokenizer's chat template renders a prompt differently once it is answered, "
                "so the response's tokens can't be separated. Use a template with a generation "
                f"prompt. The prompt was {before[-80:]!r}."
            )
        tokens = tokenize_text(tokenizer, after[len(before) :])
        if whole:
            return tuple(tokens), False
        tokens = _trim_after_eos(tokens, tokenizer, eos_ids)
    if tokens and tokens[-1] in eos_ids:
        return tuple(tokens), False
    return (*tokens, tokenizer.eos_token_id), True


def find_assistant_spans(
    prompt: Prompt, ids: tuple[int, ...], tokenizer: Any, eos_ids: frozenset[int]
) -> list[tuple[int, int]]:
    """The ranges [start, end) of a prompt's token ids that are assistant turns, EOS included.

    A turn begins where the template's generation prompt for it ends. It ends where the template
    ends a conversation that stops with it; or, where a template renders the last turn differently
    (as those do that remove the reasoning from earlier turns), at the first EOS after it. Raises
    UnusableRow where neither is found, as with a template that rewrites earlier turns.
    """
    spans: list[tuple[int, int]] = []
    for turn, message in enumerate(() if isinstance(prompt, str) else prompt):
        if message.role != "assistant":
            continue
        before = tuple(tokenize_text(tokenizer, _render(prompt[:turn], tokenizer, None)))
        rendered = _render(prompt[:turn], tokenizer, str(message.content))
        with_turn = tuple(tokenize_text(tokenizer, rendered))
        begin = len(before)
        if ids[:begin] != before:
            raise UnusableRow(_TURNS_REWRITTEN)
        if ids[: len(with_turn)] == with_turn:
            tokens = _trim_after_eos(list(with_turn[begin:]), tokenizer, eos_ids)
            spans.append((begin, begin + len(tokens)))
            continue
        end = next((i for i in range(begin, len(ids)) if ids[i] in eos_ids), None)
        text = _decode_text(tokenizer, ids[begin:end])
        if end is None or not text.endswith(message.content.strip()):
            raise UnusableRow(_TURNS_REWRITTEN)
        spans.append((begin, end + 1))
    return spans


def refuse_control_tokens(prompt: Prompt, responses: Sequence[str], tokenizer: Any) -> None:
    """Raise UnusableRow for a conversation whose text spells one of the tokenizer's control tokens.

    The tokenizer would encode it as that token, which could forge a turn or end a response early.
    Tags of an answer that are special tokens (`<think>`) are no control tokens: see `control`.
    Plain text is not checked, since it may have been rendered with such tokens on purpose.
    """
    if isinstance(prompt, str):
        return
    parts = [*(turn.content for turn in prompt), *responses]
    for token in control_tokens(tokenizer).texts:
        if any(token in part for part in parts):
            raise UnusableRow(f"its text spells the control token {token}")


def start_token_id(tokenizer: Any) -> int:
    """The token before a text that has no prompt: BOS, or EOS where there is no BOS."""
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def tokenize_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, without added special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _trim_after_eos(tokens: list[int], tokenizer: Any, eos_ids: frozenset[int]) -> list[int]:
    """A response's tokens without what the template renders after its EOS."""
    ends = [i for i, token in enumerate(tokens) if token in eos_ids]
    if ends and not _decode_text(tokenizer, tokens[ends[-1] + 1 :]):
        return tokens[: ends[-1] + 1]
    return tokens


def _decode_text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _render(prompt: Prompt, tokenizer: Any, response: str | None) -> str:
    """The chat template's text of a prompt with its response; without one, with a generation
    prompt."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "The rows are conversations, but the tokenizer has no chat template. Save one with "
            "the tokenizer (`chat_template`), or give prompts and responses as plain text."
        )
    turns = prompt_json(prompt)
    assert isinstance(turns, list)
    if response is not None:
        turns = [*turns, {"role": "assistant", "content": response}]
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=response is None
            )
        )
    except TemplateError as error:
        raise UnusableRow(f"the chat template refuses it ({error})") from error
