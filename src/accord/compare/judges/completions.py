"""A chat completion as servers send it: its text, how it ended, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2

from accord.compare.judges.cache import CachedAnswer
from accord.respond.server_errors import QUOTED_CHARACTERS

CUT_REASONS = ("length", "max_tokens", "model_length")  # OpenAI; Google and Anthropic; Mistral
FILTER_REASONS = (
    "content_filter",
    "safety",
    "recitation",
    "prohibited_content",
    "refusal",
    "sensitive",  # Zhipu
)
BROKEN_REASONS = (
    "abort",  # vLLM, SGLang
    "insufficient_system_resource",  # DeepSeek
    "network_error",  # Zhipu
)
"""An answer that ended because of the server: another attempt may bring a whole one."""


def find_completion_fault(response: httpx2.Response) -> str | None:
    """What makes a response no completion, such as one that is cut or has no choices; another
    attempt may bring one. None for a completion."""
    try:
        read_completion(response)
    except ValueError as error:
        return str(error)
    return None


def read_completion(response: httpx2.Response) -> CachedAnswer:
    """The first choice of the completion in a response. Raises ValueError with what the response
    is instead."""
    try:
        content = response.json()
    except (ValueError, RecursionError):
        kind = response.headers.get("Content-Type", "")
        what = f"HTML ({_quote(response)})" if "html" in kind.lower() else _quote(response)
        raise ValueError(f"no chat completion but {what}") from None
    fault = ValueError(f"no chat completion but {_quote(response)}")
    choices = content.get("choices") if isinstance(content, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise fault
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise fault
    text = _text(message.get("content"))
    if text is None:
        raise fault
    reason = str(choices[0].get("finish_reason") or "").casefold()
    if reason in BROKEN_REASONS:
        raise ValueError(f"an answer that the server broke off (finish_reason={reason})")
    refusal = message.get("refusal")
    withheld = None
    if reason in FILTER_REASONS:
        withheld = f"a filter withheld the answer (finish_reason={reason})"
    elif not text and isinstance(refusal, str) and refusal:
        withheld = f"the model declined to answer: {refusal[:QUOTED_CHARACTERS]}"
    usage = content.get("usage")
    prompt_tokens, answer_tokens = (
        _count(usage, f"{part}_tokens") for part in ("prompt", "completion")
    )
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    prefix = min(max(_count(details, "cached_tokens") or 0, 0), prompt_tokens or 0)
    is_cut = reason in CUT_REASONS
    return CachedAnswer(text, is_cut, prompt_tokens, answer_tokens, withheld, prefix)


def _quote(response: httpx2.Response) -> str:
    return repr(response.text[:QUOTED_CHARACTERS]) if response.content else "nothing at all"


def _text(content: Any) -> str | None:
    """The text of a message's content: a text, none, or the text parts of a list (a reasoning
    model's other parts are its thoughts). None for anything else."""
    if content is None:
        return ""  # a reasoning model that spent all its tokens on reasoning
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = []
    for part in content:
        if not isinstance(part, Mapping):
            return None
        if part.get("type") in ("text", "output_text", None):
            text = part.get("text")
            if not isinstance(text, str):
                return None
            parts.append(text)
    return "".join(parts)


def _count(usage: Any, key: str) -> int | None:
    value = usage.get(key) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
