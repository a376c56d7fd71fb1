"""Texts of models and users, made fit for messages and requests."""

from __future__ import annotations

MAX_SHOWN = 60  # characters of a prompt or response in a message


def shorten(text: str) -> str:
    """The beginning of a text, on one line, without characters that a terminal would obey."""
    line = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}…"


def replace_surrogates(text: str) -> str:
    """The text with `?` for each lone surrogate, which neither requests nor tokenizers take."""
    return text.encode("utf-8", "replace").decode()
