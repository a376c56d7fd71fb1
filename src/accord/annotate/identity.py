"""Whether a response says which model wrote it, which ends a blind comparison."""

from __future__ import annotations

import re
from pathlib import PurePath

_NAMES = (
    r"chat\s?gpt|gpt-?[2345](?:\.\d)?(?:o|-\w+)?|claude|anthropic|open\s?ai|gemini|google\s+bard|"
    r"deepmind|llama(?:-?\d)?|meta\s+ai|mistral(?:\s?ai)?|mixtral|qwen|tongyi|alibaba|deepseek|"
    r"copilot|grok|cohere|command[- ]r|vicuna|alpaca|koala|falcon|phi-?\d|gemma|smollm\d?|kimi|"
    r"moonshot|chatglm|yi-?\d+b|olmo|tulu|nemotron"
)
_SELF = re.compile(
    rf"\b(?:i\s+am|i['’]m|as|my\s+name\s+is|this\s+is|called|named|(?:trained|made|created|developed|"
    rf"built)\s+by)\s+(?:an?\s+|the\s+)?(?:(?:ai|language|large|assistant|model|chatbot)[\s,]+){{0,4}}"
    rf"({_NAMES})\b",
    re.IGNORECASE,
)
_SHORTEST = 4  # characters of a model's name: a shorter one is a word that any text may have
_SCANNED = 200_000  # characters


def named_model(text: str, model: str) -> str | None:
    """The name by which the response introduces its model, or the stored model's name in it.

    `model` may be a path or a hub name, of which the last part is looked for.
    """
    text = text[:_SCANNED]
    if match := _SELF.search(text):
        return match[1]
    name = PurePath(model.split("://")[-1]).name
    if len(name) < _SHORTEST or not re.search(r"[\d-]|[A-Z].*[A-Z]", name):
        return None  # such as `base` or `chosen`: as a word it says nothing
    match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
    return match[0] if match else None
