"""Prompts, conversations and answers as token ids, as the tokenizer and its chat template say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from accord.errors import DataError
from accord.records import Prompt, prompt_json

_REWRITTEN = "the chat template rewrites earlier turns, so their answers can't be found"


class RowDropped(Exception):  # noqa: N818 - not an error: the row is counted and left out
    """A row can't be used, for the reason that is told."""


def encode_prompt(prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a prompt as the model is to continue it: the chat template, or the text.

    Raises DataError for a conversation when the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=True)["input_ids"]
        eos = tokenizer.eos_token_id
        if ids and ids[-1] == eos and tokenizer.bos_token_id != eos:
            ids = ids[:-1]  # some tokenizers end every text with EOS; a prompt has not ended
        return tuple(ids) or (first_token(tokenizer),)
    return tuple(plain_tokens(tokenizer, _render(prompt, tokenizer, None)))


def encode_response(
    prompt: Prompt,
    response: str,
    tokenizer: Any,
    eos_ids: frozenset[int],
    *,
    finished: bool = True,
) -> tuple[tuple[int, ...], bool]:
    """Token ids of a response to the prompt, ending with EOS, and whether EOS had to be added.

    A response that is not finished (cut when it was sampled) has no EOS, and no token at all where
    it has no text. What the template writes after the answer's EOS (a line break, say) is not part
    of it.
    """
    if not finished:
        ids, _ = encode_response(prompt, response, tokenizer, eos_ids)
        return ids[:-1], False
    if isinstance(prompt, str):
        own = plain_tokens(tokenizer, response)
    else:
        before = _render(prompt, tokenizer, None)
        after = _render(prompt, tokenizer, response)
        if not after.startswith(before):
            raise DataError(
                "The tokenizer's chat template renders a prompt differently once it is answered, "
                "so the answer's tokens can't be told apart. Use a template with a generation "
                f"prompt. The prompt was {before[-80:]!r}."
            )
        own = _to_its_end(plain_tokens(tokenizer, after[len(before) :]), tokenizer, eos_ids)
    if own and own[-1] in eos_ids:
        return tuple(own), False
    return (*own, tokenizer.eos_token_id), True


def earlier_answers(
    prompt: Prompt, ids: tuple[int, ...], tokenizer: Any, eos_ids: frozenset[int]
) -> list[tuple[int, int]]:
    """Where among a prompt's token ids the assistant's turns lie, each with its end token.

    A turn begins where the template's prompt for it ends. It ends where the template ends the
    conversation with it; or, where a template writes the last turn differently (as those do that
    leave thoughts out of earlier ones), at the first end token after it. Raises RowDropped where
    neither can be found, as with a template that rewrites what came before.
    """
    spans: list[tuple[int, int]] = []
    for turn, message in enumerate(() if isinstance(prompt, str) else prompt):
        if message.role != "assistant":
            continue
        asked = tuple(plain_tokens(tokenizer, _render(prompt[:turn], tokenizer, None)))
        said = _render(prompt[:turn], tokenizer, str(message.content))
        answered = tuple(plain_tokens(tokenizer, said))
        begin = len(asked)
        if ids[:begin] != asked:
            raise RowDropped(_REWRITTEN)
        if ids[: len(answered)] == answered:
            own = _to_its_end(list(answered[begin:]), tokenizer, eos_ids)
            spans.append((begin, begin + len(own)))
            continue
        end = next((i for i in range(begin, len(ids)) if ids[i] in eos_ids), None)
        text = _plain_text(tokenizer, ids[begin:end])
        if end is None or not text.endswith(message.content.strip()):
            raise RowDropped(_REWRITTEN)
        spans.append((begin, end + 1))
    return spans


def refuse_control_tokens(prompt: Prompt, responses: Sequence[str], tokenizer: Any) -> None:
    """Drop a conversation whose text spells one of the tokenizer's special tokens.

    It would be read as that token: a turn could be forged, or a response end in its middle. Plain
    text is taken as it stands, since it may have been rendered on purpose.
    """
    if isinstance(prompt, str):
        return
    parts = [*(turn.content for turn in prompt), *responses]
    for token in tokenizer.all_special_tokens:
        if any(token in part for part in parts):
            raise RowDropped(f"its text spells the control token {token}")


def first_token(tokenizer: Any) -> int:
    """The token that stands before a text that begins from nothing."""
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def plain_tokens(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text as it stands, with nothing added to it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _to_its_end(own: list[int], tokenizer: Any, eos_ids: frozenset[int]) -> list[int]:
    """An answer's tokens without what the template writes after its end token."""
    ends = [i for i, token in enumerate(own) if token in eos_ids]
    if ends and not _plain_text(tokenizer, own[ends[-1] + 1 :]):
        return own[: ends[-1] + 1]
    return own


def _plain_text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _render(prompt: Prompt, tokenizer: Any, response: str | None) -> str:
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
        raise RowDropped(f"the chat template refuses it ({error})") from error
