"""Which tokens of a tokenizer are control tokens, and which are tags within an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from accord.lm.tokens.render import UnusableRow, render

_ANSWER_TAGS = frozenset(
    "think thinking thought thoughts reasoning reflection scratchpad analysis plan answer "
    "solution final code python_tag tool_call tool_calls tool_code function function_call".split()
)
"""Names of tags that an answer may contain, by published chat templates and reward formats."""

_PAIRS = (
    ("<{}>", "</{}>"),
    ("[{}]", "[/{}]"),
    ("<|{}|>", "<|/{}|>"),
    ("<|{}>", "<{}|>"),
    ("◁{}▷", "◁/{}▷"),
    ("<|begin_of_{}|>", "<|end_of_{}|>"),
)
"""Forms of an opening and a closing tag."""

_PROBES = (("user",), ("user", "assistant"), ("system", "user", "assistant", "user", "assistant"))
_PROBE_TEXT = "o"  # without it, only what the template writes would remain


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The control tokens of a tokenizer: their ids, and their texts, longest first.

    `normalized` are the ids of those that the tokenizer looks for in normalized text: other
    spellings (`<|END|>` in a tokenizer of lower case) are encoded as them too.
    """

    ids: frozenset[int]
    texts: tuple[str, ...]
    normalized: frozenset[int] = frozenset()


_cache: WeakKeyDictionary[Any, tuple[tuple[Any, ...], ControlTokens]] = WeakKeyDictionary()


def control_tokens(tokenizer: Any) -> ControlTokens:
    """The tokens that structure a conversation: text that spells one could forge a turn.

    They are:

    - the tokens with a role, such as BOS and EOS; padding only where no ordinary text has its id
      (a tokenizer may pad with an everyday character);
    - added tokens, special or not, that the chat template writes around turns;
    - other special added tokens, except tags of an answer: those that are named like one
      (`<think>`, `<|tool_call|>`), and pairs (`<note>` and `</note>`) that the template does not
      write.
    """
    state = (
        getattr(tokenizer, "chat_template", None),
        len(tokenizer),
        tuple(tokenizer.all_special_tokens),
    )
    cached = _cache.get(tokenizer)
    if cached is not None and cached[0] == state:
        return cached[1]
    tokens = _find_control_tokens(tokenizer)
    _cache[tokenizer] = (state, tokens)
    return tokens


def _find_control_tokens(tokenizer: Any) -> ControlTokens:
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    named = _named_tokens(tokenizer)
    padding = tokenizer.pad_token
    if padding is not None and padding not in named and not _is_ordinary(tokenizer, padding):
        named = named | {padding}
    around_turns = {text for text in added if _is_marker(text)}
    if around_turns:
        rendered = "\n".join(_probe_renderings(tokenizer))
        around_turns = {text for text in around_turns if text in rendered}
    texts, template = set(named), str(getattr(tokenizer, "chat_template", None) or "")
    for text, token in added.items():
        if text in named or text == padding or not text.strip() or _is_answer_tag(text):
            continue
        is_tag = _has_partner(text, added) and text not in template
        if text in around_turns or (token.special and not is_tag):
            texts.add(text)
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in texts}
    normalized = (ids[t] for t in texts if t in added and added[t].normalized)
    return ControlTokens(
        frozenset(int(i) for i in ids.values() if i is not None),
        tuple(sorted(texts, key=lambda text: (-len(text), text))),
        frozenset(normalized) - {tokenizer.unk_token_id},
    )


def _named_tokens(tokenizer: Any) -> frozenset[str]:
    """Texts of the tokens that have a role in the tokenizer's settings, without padding."""
    roles = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
    return frozenset(str(t) for t in (getattr(tokenizer, role, None) for role in roles) if t)


def _is_ordinary(tokenizer: Any, text: str) -> bool:
    """Whether text without special tokens is encoded as this token too."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids) == [tokenizer.convert_tokens_to_ids(text)]


def _is_marker(text: str) -> bool:
    """Whether a token looks like a mark, and not like a word, a blank or a line break."""
    return len(text) >= 3 and not text[0].isalnum() and not text.isspace()


def _is_answer_tag(text: str) -> bool:
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = re.sub(r"^(begin|end)_of_|_(begin|end|start)$|^(begin|end|start)_", "", name)
    return _is_marker(text) and name in _ANSWER_TAGS


def _has_partner(text: str, texts: dict[str, Any]) -> bool:
    """Whether a tag's closing or opening tag is among the texts."""
    return any(partner in texts for partner in _partners(text))


def _partners(text: str) -> Iterator[str]:
    for pair in _PAIRS:
        for form, other in (pair, pair[::-1]):
            before, after = form.split("{}")
            if len(text) > len(before + after) and (
                text.startswith(before) and text.endswith(after)
            ):
                name = text[len(before) : len(text) - len(after)]
                if re.match(r"\w\w", name):
                    yield other.format(name)


def _probe_renderings(tokenizer: Any) -> Iterator[str]:
    """What the chat template writes around turns of each role, where it accepts them."""
    if not getattr(tokenizer, "chat_template", None):
        return
    for roles in _PROBES:
        turns = [{"role": role, "content": _PROBE_TEXT} for role in roles]
        for generation_prompt in (False, True):
            with suppress(UnusableRow):
                yield render(turns, tokenizer, generation_prompt=generation_prompt)
