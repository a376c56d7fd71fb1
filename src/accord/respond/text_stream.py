"""A response's text while its tokens come: what is shown is never taken back."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.token_bytes import is_byte_token
from accord.respond.stops import overlap
from accord.respond.text import decode_all, leading_blank, names_control_token

REPLACEMENT = "\ufffd"  # what an incomplete character is decoded as


@dataclass(frozen=True, slots=True)
class NewText:
    """Text that can be shown, and how many further tokens are complete with it."""

    text: str
    tokens: int = 0


class TextStream:
    """Decodes the tokens of one response as they come. All text together is `response_text`'s.

    Held back are the bytes of an incomplete character, and text that a stop string may begin with.
    `stop` is the stop string that was completed, if one was; nothing of it is shown.
    Only the tokens since the last complete character are decoded again at each token.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int] = (), stops: Sequence[str] = ()
    ) -> None:
        self.tokenizer, self.prompt, self.stops = tokenizer, prompt, tuple(stops)
        self.stop: str | None = None
        self._control = control_tokens(tokenizer).ids
        # Control tokens are no part of the text, but a stop string may name one.
        self._sees_control = any(names_control_token(stop, tokenizer) for stop in self.stops)
        self._window: list[int] = []  # the last tokens whose text is complete, and those after them
        self._known = ""  # the text of the former
        self._num_known = 0
        self._has_begun = False
        self._pending: deque[tuple[str, bool]] = deque()  # complete text, and whether it is shown
        self._start = self._end = 0  # of the pending text, in characters of all text
        self._ends: deque[int] = deque()  # where complete tokens end that are not counted yet
        self._last_end = 0  # where the last counted token ends
        self._num_open = 0  # tokens whose text is not complete

    def push(self, token: int) -> NewText:
        """Add a token that is not EOS; returns what it completes."""
        if token not in self._control:
            self._window.append(token)
            self._num_open += 1
            rest = self._read_window()
            # A run of byte tokens is decoded as a whole: a byte after it may still change it.
            name = self.tokenizer.convert_ids_to_tokens(token)
            if rest and not rest.endswith(REPLACEMENT) and not is_byte_token(name):
                self._complete(rest)
                rest = ""
            return self._release(rest)
        rest = self._read_window()
        if self._sees_control:
            if not rest.endswith(REPLACEMENT):
                self._complete(rest)
                rest = ""
            self._append(decode_all(self.tokenizer, [token]), False)
        if self._num_open:
            self._num_open += 1
        else:
            self._ends.append(self._end)
        return self._release(rest)

    def finish(self) -> NewText:
        """The rest of the text: the response has ended."""
        if self.stop is not None:
            return NewText("")
        self._complete(self._read_window(is_whole=True))
        return self._take(self._end, len(self._ends))

    def _read_window(self, is_whole: bool = False) -> str:
        """The text of the window's last tokens that is not complete."""
        if not self._num_open:
            return ""
        text = decode_all(self.tokenizer, self._window)[len(self._known) :]
        if (text or is_whole) and not self._has_begun:
            text = leading_blank(self.prompt, self._window, self.tokenizer) + text
        return text

    def _complete(self, text: str) -> None:
        """Take the text of the window as complete."""
        if not self._num_open:
            return
        if text:
            self._has_begun = True
            self._append(text, True)
        self._window = self._window[self._num_known :]
        self._num_known = len(self._window)
        self._known = decode_all(self.tokenizer, self._window)
        self._ends.extend([self._end] * self._num_open)
        self._num_open = 0

    def _append(self, text: str, is_shown: bool) -> None:
        self._pending.append((text, is_shown))
        self._end += len(text)

    def _release(self, rest: str) -> NewText:
        """Show what no stop string can begin with any more; the `rest` may still change."""
        if not self.stops:
            return self._take(self._end)
        complete = "".join(part for part, _ in self._pending)
        text = complete + rest
        completed = [(text.index(stop), stop) for stop in self.stops if stop in text]
        if not completed:
            withheld = max(overlap(text, stop) for stop in self.stops)
            return self._take(self._start + min(len(complete), len(text) - withheld))
        begin, self.stop = min(completed)
        if begin > len(complete):
            self._complete(rest)
        position = self._start + begin
        starts = [self._last_end, *list(self._ends)[:-1]]
        return self._take(position, sum(start < position for start in starts[: len(self._ends)]))

    def _take(self, position: int, tokens: int | None = None) -> NewText:
        """The shown text up to a position, and so many tokens; by default those that end there or
        before."""
        shown = []
        while self._pending and self._start < position:
            text, is_shown = self._pending.popleft()
            count = min(len(text), position - self._start)
            if count < len(text):
                self._pending.appendleft((text[count:], is_shown))
            shown.append(text[:count] if is_shown else "")
            self._start += count
        if tokens is None:
            tokens = sum(end <= position for end in self._ends)
        for _ in range(tokens):
            self._last_end = self._ends.popleft()
        return NewText("".join(shown), tokens)
