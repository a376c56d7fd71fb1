"""Stop strings in the answers of a server that shows them, or that goes on behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from accord.respond.stops import overlap
from accord.serve.engine import Delta, TokenLogprob


class StopCut:
    """Ends one response before the first stop string, over the borders of its pieces. What a stop
    string may begin with is held back until the next piece, and tokens until their text is shown.
    `has_ended` says that a stop string came."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.has_ended = False
        self._text = ""  # from the first token that is held back on
        self._shown = 0  # characters of it that were shown
        self._tokens: tuple[TokenLogprob, ...] = ()  # held back

    def cut(self, delta: Delta) -> Delta | None:
        """What is shown of a delta; None behind the end."""
        if self.has_ended:
            return None
        text, shown = self._text + delta.text, self._shown
        tokens = self._tokens + delta.tokens
        begins = [text.index(stop, shown) for stop in self.stops if stop in text[shown:]]
        if begins:
            self.has_ended = True
            end = min(begins)
            count, _ = _complete(tokens, text[:end], text)
            return Delta(delta.index, text[shown:end], tokens[:count], "stop")
        withheld = max((overlap(text[shown:], stop) for stop in self.stops), default=0)
        if delta.finish_reason is not None:
            withheld = 0
        end = len(text) - withheld
        count, start = _complete(tokens, text[:end], text) if withheld else (len(tokens), end)
        self._text, self._shown, self._tokens = text[start:], end - start, tokens[count:]
        return replace(delta, text=text[shown:end], tokens=tokens[:count])


def _complete(tokens: Sequence[TokenLogprob], shown: str, text: str) -> tuple[int, int]:
    """How many tokens of a text are complete with its beginning `shown`, and where the others
    begin.

    A token whose text is not there, such as a part of a character, belongs to what follows it. A
    server may leave out the blank before a token's text.
    """
    position = 0
    for count, token in enumerate(tokens):
        begin = text.find(token.text, position)
        begin, end = (position, position) if begin < 0 else (begin, begin + len(token.text))
        if end > len(shown) or begin >= len(shown):
            return count, position
        position = end
    return len(tokens), len(shown)
