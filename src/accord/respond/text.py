"""From sampled tokens to a response's text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.opened import blank_before_answers
from accord.lm.tokens.template import tokenize_text
from accord.respond.protocol import Sample
from accord.respond.stops import StopStrings, truncate_at_stop

CONTEXT_TOKENS = 8  # of the prompt, decoded with a response


def decode_all(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of tokens as they are: special tokens too, and no blank is added or removed."""
    return str(
        tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    )


def find_stop_strings(tokenizer: Any, strings: Sequence[str]) -> StopStrings:
    """Looks for stop strings in what `response_text` shows, and in control tokens that one names.

    A string such as `user` is not found in the name of a control token `<|user|>`, which is no part
    of the text; `<|user|>` is found.
    """
    named = any(names_control_token(string, tokenizer) for string in strings)
    unseen = frozenset() if named else control_tokens(tokenizer).ids
    first_blank = partial(leading_blank, tokenizer=tokenizer)
    return StopStrings(strings, partial(decode_all, tokenizer), unseen, first_blank)


def names_control_token(string: str, tokenizer: Any) -> bool:
    """Whether a stop string holds the text of a control token, such as `<|user|>`."""
    return any(marker in string for marker in control_tokens(tokenizer).texts)


def response_text(sample: Sample, tokenizer: Any, prompt: Sequence[int] = ()) -> str:
    """A response as text, without its EOS or stop string; blanks at its ends are not stripped.

    Of the special tokens that it wrote only the tokenizer's control tokens are left out, such as
    markers of turns: tags of an answer (`<think>`, `<tool_call>`) are text, special or not.
    `prompt` holds the prompt's token ids: some tokenizers drop the blank before a text's first
    word, which is part of the response where the text of the prompt comes before it.
    """
    ends_with_eos = sample.finished and sample.stop is None
    tokens = list(sample.tokens[:-1] if ends_with_eos else sample.tokens)
    if sample.stop is not None:
        tokens = _before_stop(tokens, sample.stop, tokenizer)
    control = control_tokens(tokenizer).ids
    written = [token for token in tokens if token not in control]
    text = _decode_after(prompt, written, tokenizer)
    return truncate_at_stop(text, sample.stop)


def _before_stop(tokens: list[int], stop: str, tokenizer: Any) -> list[int]:
    """The tokens up to the stop string that ended them, where a control token is part of it."""
    text = decode_all(tokenizer, tokens)
    if not names_control_token(stop, tokenizer) or stop not in text:
        return tokens
    end = text.index(stop)
    while tokens and len(decode_all(tokenizer, tokens)) > end:
        tokens = tokens[:-1]
    return tokens


def _decode_after(prompt: Sequence[int], tokens: list[int], tokenizer: Any) -> str:
    """The text of tokens that follow a prompt's."""
    return leading_blank(prompt, tokens, tokenizer) + decode_all(tokenizer, tokens)


def leading_blank(prompt: Sequence[int], tokens: Sequence[int], tokenizer: Any) -> str:
    """The blank before the first word of tokens that follow a prompt's, where decoding them alone
    drops it; empty where they have none."""
    alone = decode_all(tokenizer, tokens)
    context = list(prompt[-CONTEXT_TOKENS:])
    before, whole = decode_all(tokenizer, context), decode_all(tokenizer, [*context, *tokens])
    after = whole[len(before) :]
    if not context or after == alone or after != " " + alone or not whole.startswith(before):
        return ""
    if tokenize_text(tokenizer, alone) == tokenize_text(tokenizer, after):
        return ""  # the blank only separates the words of a text
    return "" if blank_before_answers(tokenizer) == " " else " "
