"""Stop strings in the answers of a server that shows them, or that goes on behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from accord.respond.stops import overlap
from accord.serve.engine import Delta


class StopCut:
    """Ends one response before the first stop string, over the borders of its pieces. What a stop
    string may begin with is held back until the next piece."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self._pending = ""
        self._has_ended = False

    def cut(self, delta: Delta) -> Delta | None:
        """What is shown of a delta; None behind the end."""
        if self._has_ended:
            return None
        text = self._pending + delta.text
        begins = [text.index(stop) for stop in self.stops if stop in text]
        if begins:
            self._has_ended = True
            return replace(delta, text=text[: min(begins)], finish_reason="stop")
        withheld = max((overlap(text, stop) for stop in self.stops), default=0)
        if delta.finish_reason is not None:
            withheld = 0
        end = len(text) - withheld
        self._pending = text[end:]
        return replace(delta, text=text[:end])
