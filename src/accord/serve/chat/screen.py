"""What a chat prints. Text of models and servers is untrusted: a terminal obeys none of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from accord.compare.texts import visible_controls

NARROW = 80  # columns of a terminal below which two answers stand one below the other


class Screen:
    """A console. Each piece of text that a model wrote goes through `visible_controls`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None

    def note(self, text: str, style: str = "dim") -> None:
        """A line of the chat's own, or of a server's error."""
        self.console.print(
            Text(visible_controls(text)), style=style, highlight=False, soft_wrap=True
        )

    def error(self, text: str) -> None:
        self.note(text, "red")

    def line(self, text: str) -> None:
        """A line as it is, but for what a terminal obeys."""
        self.console.out(visible_controls(text), highlight=False)

    def piece(self, text: str) -> None:
        """A piece of one model's answer, as it comes."""
        self.console.out(visible_controls(text), end="", highlight=False)
        self.console.file.flush()

    def end_answer(self) -> None:
        self.console.out("")

    def begin_pair(self) -> None:
        """Two answers come side by side; where nobody watches, they are printed at the end."""
        if self.console.is_terminal:
            self._live = Live(
                self._pair(("", "")), console=self.console, transient=True, refresh_per_second=8
            )
            self._live.start()

    def update_pair(self, texts: Sequence[str]) -> None:
        if self._live is not None:
            self._live.update(self._pair(texts))

    def end_pair(self, texts: Sequence[str]) -> None:
        """Both answers, whole."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self.console.is_terminal:
            self.console.print(self._pair(texts))
            return
        for number, text in enumerate(texts, 1):
            self.line(f"[{number}] {text}")

    def _pair(self, texts: Sequence[str]) -> Columns:
        width = self.console.width
        width = width if width < NARROW else width // 2 - 1
        return Columns(
            [
                Panel(Text(visible_controls(text)), title=str(number), width=width)
                for number, text in enumerate(texts, 1)
            ],
            padding=(0, 1),
        )
