"""Stop strings: text that ends a response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MARGIN = 8  # tokens looked at before those that a stop string could span


class Stop:
    """Finds out whether the last token of a response completes one of some strings.

    A token may complete a string and go on after it. The text of the last tokens is looked at, as
    many as the longest string has bytes and a few more; only if it holds a stop string is all of
    the response decoded, since how a token reads may depend on what stands before it.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.strings, self.decode = tuple(strings), decode
        self.reach = max(len(s.encode()) for s in self.strings) + MARGIN

    def ended_by(self, tokens: Sequence[int]) -> str | None:
        """The string that begins first in the text of these tokens, if there is one."""
        if not self._holds(self.decode(tokens[-self.reach :])):
            return None
        text = self.decode(tokens)
        found = [(text.index(s), s) for s in self.strings if s in text]
        return min(found)[1] if found else None

    def _holds(self, text: str) -> bool:
        return any(s in text for s in self.strings)


def before_stop(text: str, stop: str | None) -> str:
    """What stands before the stop string that ended a response; all of it where none did."""
    return text if stop is None else text.partition(stop)[0]
