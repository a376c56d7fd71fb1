"""Word-level differences between two responses, as HTML."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from accord.compare.texts import visible_controls

MAX_WORDS = 3000  # in either text: the time of a comparison grows with the square
_WORDS = re.compile(r"\s+|⟦U\+\w+⟧|\w+|[^\w\s]")


def difference_html(text: str, other: str) -> Markup | None:
    """`text` with the words that `other` lacks marked as `<ins>`; None where a text is too long.

    White space alone is never a difference of its own.
    """
    words, others = (_WORDS.findall(visible_controls(each)) for each in (text, other))
    if max(len(words), len(others)) > MAX_WORDS:
        return None
    matcher = SequenceMatcher(_is_space, others, words, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        piece = "".join(words[start:end])
        if kind in ("equal", "delete") or not piece.strip():
            parts.append(escape(piece))
        else:
            parts.append(Markup("<ins>{}</ins>").format(piece))
    return Markup("").join(parts)


def _is_space(word: str) -> bool:
    return word.isspace()
