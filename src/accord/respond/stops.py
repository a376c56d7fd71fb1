"""Stop strings: text that ends a response."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

MARGIN_TOKENS = 8  # decoded before those that a stop string could span


class StopStrings:
    """Checks whether the last token of a response completes a stop string.

    A token may complete a string and hold text after it. Only the last tokens are decoded, as many
    as the longest string has bytes and MARGIN_TOKENS more. If their text holds a stop string, the
    whole response is decoded, since a token's text may depend on the tokens before it. `unseen` are
    the tokens that are no part of a response's text: a string that only their names hold, such as
    `assistant`, is not looked for there. `first_blank` gives the blank before the first word of
    tokens behind a prompt's, where decoding them alone drops it: a string may begin with it.
    """

    def __init__(
        self,
        strings: Sequence[str],
        decode: Callable[[Sequence[int]], str],
        unseen: Collection[int] = (),
        first_blank: Callable[[Sequence[int], Sequence[int]], str] = lambda prompt, tokens: "",
    ) -> None:
        self.strings, self.decode, self.unseen = tuple(strings), decode, unseen
        self.first_blank = first_blank
        self._begin_blank = any(s.startswith(" ") for s in self.strings)
        self.tail_tokens = max(len(s.encode()) for s in self.strings) + MARGIN_TOKENS

    def find_in(self, tokens: Sequence[int], prompt: Sequence[int] = ()) -> str | None:
        """The stop string that begins first in the text of these tokens, if there is one."""
        if self.unseen:
            tokens = [token for token in tokens if token not in self.unseen]
        tail, blank = self.decode(tokens[-self.tail_tokens :]), ""
        if self._begin_blank and prompt and len(tokens) <= self.tail_tokens:
            blank = self.first_blank(prompt, tokens)
        if not any(s in blank + tail for s in self.strings):
            return None
        text = blank + self.decode(tokens)
        positions = [(text.index(s), s) for s in self.strings if s in text]
        return min(positions)[1] if positions else None


def truncate_at_stop(text: str, stop: str | None) -> str:
    """The text before the stop string that ended a response; all of it where none did."""
    return text if stop is None else text.partition(stop)[0]


def overlap(text: str, stop: str) -> int:
    """The characters at the end of a text that a stop string may begin with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
