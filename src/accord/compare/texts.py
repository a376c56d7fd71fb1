"""Texts of models and users, made fit for messages and requests."""

from __future__ import annotations

import re

MAX_SHOWN = 60  # characters of a prompt or response in a message
CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters except tab and line ends
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # unseen, or direction
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff\ufffe\uffff]"
)
"""Characters that a reader can't see, or that a terminal or browser obeys."""


def shorten(text: str) -> str:
    """The beginning of a text, on one line, without characters that a terminal would obey."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"


def replace_surrogates(text: str) -> str:
    """The text with `?` for each lone surrogate, which neither requests nor tokenizers take."""
    return text.encode("utf-8", "replace").decode()


def visible_controls(text: str) -> str:
    """The text with line ends as `\\n`, and each unseen character as its number, `⟦U+202E⟧`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROLS.sub(numbered, text)


def numbered(match: re.Match[str]) -> str:
    """A character as its number."""
    return f"⟦U+{ord(match[0]):04X}⟧"
