"""Where answers begin and end among the tokens of their whole conversation.

A prompt and its answer are tokenized as one text, since tokenizers read a text by its context: some
put a blank before every text, and tokens may span the end of the prompt and the start of the
answer. The answer begins where these ids and those of the prompt alone part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.render_turns import render_turns
from accord.lm.tokens.template import (
    encode_prompt,
    encode_text,
    ends_with_assistant,
    render_answered,
    render_prompt,
    start_token_id,
    tokenize_text,
    tokenize_texts,
)
from accord.records import Message, Prompt, prompt_context, turns_json

_Markers = frozenset[int]

_TURNS_REWRITTEN = "the chat template rewrites earlier turns, so their answers can't be found"


@dataclass(frozen=True, slots=True)
class EncodedAnswers:
    """A prompt with its answers: `prompt` and each of `responses` together are a row of the model.

    eos_added: answers that nothing ended, so EOS was added. merged: a token spans the end of the
    prompt and the start of an answer, so it belongs to the answer. reopened: the template ends the
    prompt differently than it begins the answered turn (as with an opened thought), so the answer
    begins where both part. altered: answers of which the template leaves out a part.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    eos_added: tuple[bool, ...]
    merged: bool = False
    reopened: bool = False
    altered: int = 0


def encode_answers(
    prompt: Prompt,
    responses: Sequence[str],
    tokenizer: Any,
    eos_ids: frozenset[int],
    *,
    finished: Sequence[bool] | None = None,
    whole: bool = False,
    fields: Sequence[str] | None = None,
) -> EncodedAnswers:
    """Token ids of a prompt and of responses to it, as they are in the whole text of each.

    A response ends with its EOS. One that is not finished (cut when it was sampled) has no EOS, and
    no token at all where it has no text. What the template renders after the EOS (a line break,
    say) is not part of it, except with `whole`: a finished response to a conversation then ends
    where the rendered conversation does, and no EOS is added to it. `fields` are those of each
    response, as a `Message` has them. Raises UnusableRow where the
    template refuses the conversation or renders its earlier turns differently once it is answered.
    """
    ended = [True] * len(responses) if finished is None else finished
    others = [""] * len(responses) if fields is None else fields
    is_text = isinstance(prompt, str)
    if isinstance(prompt, str):
        before_text, texts = prompt, [prompt + response for response in responses]
        before = encode_prompt(prompt, tokenizer)
        rows = [tuple(encode_text(tokenizer, text)) for text in texts]
    else:
        before_text = render_prompt(prompt, tokenizer)
        texts = [
            render_answered(prompt, response, tokenizer, other)
            for response, other in zip(responses, others, strict=True)
        ]
        before, *rows = map(tuple, tokenize_texts(tokenizer, [before_text, *texts]))
    split = min((_shared_length(before, row) for row in rows), default=len(before))
    extends = all(text.startswith(before_text) for text in texts)
    if not extends:
        _require_same_turns(prompt, before_text, texts, tokenizer)
    markers = eos_ids if is_text else _turn_markers(tokenizer, eos_ids)
    encoded = [
        _end_answer(
            row[split:],
            _Row(text, response, done, whole and not is_text, bool(other)),
            tokenizer,
            eos_ids,
            markers,
        )
        for row, text, response, done, other in zip(
            rows, texts, responses, ended, others, strict=True
        )
    ]
    altered = 0 if is_text else sum(map(_is_altered, responses, texts))
    return EncodedAnswers(
        before[:split] or (start_token_id(tokenizer),),
        tuple(ids for ids, _ in encoded),
        tuple(added for _, added in encoded),
        merged=extends and split < len(before) and bool(prompt),
        reopened=not extends and split < len(before),
        altered=altered,
    )


def find_assistant_spans(
    prompt: Prompt,
    ids: tuple[int, ...],
    text: str,
    tokenizer: Any,
    eos_ids: frozenset[int],
    *,
    learn: bool = True,
) -> list[tuple[int, int]]:
    """The ranges [start, end) of assistant turns among a conversation's ids, EOS included.

    `ids` and `text` are those of the conversation with its last answer; the ranges are those of the
    answers before. A turn begins where the ids of the turns before it, with the template's
    generation prompt, and `ids` part. It ends where the template ends a conversation that stops
    with it; or, where a template renders the last turn differently (as those do that remove the
    reasoning from earlier turns), at the first end of a turn behind its text. Raises UnusableRow
    where neither is in `ids`, as with a template that rewrites earlier turns.
    """
    spans: list[tuple[int, int]] = []
    turns = () if isinstance(prompt, str) else prompt
    markers = _turn_markers(tokenizer, eos_ids)
    earlier = turns[:-1] if ends_with_assistant(prompt) else turns
    for turn, message in enumerate(earlier):
        if message.role != "assistant" or message.learn != learn:
            continue
        before_text = render_prompt(turns[:turn], tokenizer)
        before = _ids(tokenizer, before_text)
        begin = _shared_length(before, ids)
        if not text.startswith(before_text):
            try:
                _require_same_turns(turns[:turn], before_text, [text], tokenizer)
            except UnusableRow as error:
                raise UnusableRow(_TURNS_REWRITTEN) from error
        rendered = _render_turns_alone(turns[: turn + 1], tokenizer)
        with_turn = _ids(tokenizer, rendered)
        row = _Row(rendered, message.content, has_fields=bool(message.fields))
        answer, eos_added = _end_answer(with_turn[begin:], row, tokenizer, eos_ids, markers)
        end = begin + len(answer) - eos_added
        if ids[:end] != with_turn[:end] and text.startswith(rendered):
            end = _shared_length(ids, with_turn)  # a token spans the end and the next turn
        elif ids[:end] != with_turn[:end]:
            closing = eos_ids if eos_added else markers
            content = _plain(tokenizer, tokenize_text(tokenizer, row.response), markers)
            ends = (i for i in range(begin, len(ids)) if ids[i] in closing)
            closed = (
                i for i in ends if _closes(_plain(tokenizer, ids[begin:i], markers), content, row)
            )
            end = next(closed, -1) + 1
            if not end:
                raise UnusableRow(_TURNS_REWRITTEN)
        spans.append((begin, end))
    return spans


def _closes(text: str, content: str, row: _Row) -> bool:
    """Whether a turn's text ends with its content, or holds it where calls follow."""
    return content in text if row.has_fields else text.endswith(content)


def _render_turns_alone(turns: tuple[Message, ...], tokenizer: Any) -> str:
    """The chat template's text of turns, without a generation prompt."""
    return render_turns(
        tokenizer, turns_json(turns), prompt_context(turns), generation_prompt=False
    )


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenize_text(tokenizer, text))


def _shared_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The number of equal items at the beginning of both."""
    shared, longest = 0, min(len(a), len(b))
    if a[:longest] == b[:longest]:
        return longest
    while longest - shared > 1:  # the first `shared` are equal, and the first `longest` are not
        middle = (shared + longest) // 2
        if a[shared:middle] == b[shared:middle]:
            shared = middle
        else:
            longest = middle
    return shared


def _require_same_turns(
    prompt: Prompt, before: str, answered: Sequence[str], tokenizer: Any
) -> None:
    """Raise UnusableRow where a prompt's turns are rendered differently once it is answered.

    Its generation prompt may be: some templates open a thought there.
    """
    assert not isinstance(prompt, str)
    turns = prompt[:-1] if ends_with_assistant(prompt) else prompt
    rendered = _render_turns_alone(turns, tokenizer) if turns else ""
    needed = _shared_length(before, rendered)
    shared = min(_shared_length(before, text) for text in answered)
    if shared < len(before[:needed].rstrip()):
        raise UnusableRow(
            "the chat template renders the prompt differently once it is answered, so the "
            "answer's tokens can't be separated"
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """An answer within its rendered conversation `text`."""

    text: str
    response: str
    finished: bool = True
    whole: bool = False
    has_fields: bool = False


def _end_answer(
    tokens: tuple[int, ...], row: _Row, tokenizer: Any, eos_ids: frozenset[int], markers: _Markers
) -> tuple[tuple[int, ...], bool]:
    """An answer's tokens up to its end, and whether EOS was added.

    `tokens` are those from the answer's beginning to the end of the conversation.
    """
    ends = (i for i, token in enumerate(tokens) if token in markers)
    end = next((i for i in ends if _ends_row(tokens[i + 1 :], row, tokenizer, markers)), None)
    if not row.finished:
        return tokens[:end] if row.response or row.has_fields else (), False
    if row.whole:
        return tokens, False
    if end is not None and tokens[end] in eos_ids:
        return tokens[: end + 1], False
    return (*tokens, tokenizer.eos_token_id), True


def _ends_row(rest: Sequence[int], row: _Row, tokenizer: Any, markers: _Markers) -> bool:
    """Whether tokens have no text, or that which the template writes behind the answer."""
    text = _plain(tokenizer, rest, markers)
    if not text:
        return True
    return text == _plain(tokenizer, tokenize_text(tokenizer, _text_behind(row)), markers)


def _turn_markers(tokenizer: Any, eos_ids: frozenset[int]) -> _Markers:
    """EOS and control tokens, without the unknown token, which stands for a part of the text."""
    return eos_ids | (control_tokens(tokenizer).ids - {tokenizer.unk_token_id})


def _text_behind(row: _Row) -> str:
    """What the template wrote behind the answer; nothing where the answer is not in the text, or
    where calls follow its text."""
    if row.has_fields:
        return ""
    response = row.response.strip()
    return row.text.rpartition(response)[2] if response and response in row.text else ""


def _plain(tokenizer: Any, ids: Sequence[int], markers: _Markers) -> str:
    """The text of ids without markers, and without blanks around it."""
    ids = [i for i in ids if i not in markers]
    return str(tokenizer.decode(ids)).strip() if ids else ""


def _is_altered(response: str, text: str) -> bool:
    """Whether the template left out or changed a part of the answer, blanks aside."""
    return "".join(response.split()) not in "".join(text.split())
