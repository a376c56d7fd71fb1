"""Checks whose errors wait until all processes have taken the same passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accord.errors import AccordError


@dataclass(slots=True)
class Errors:
    """What checks raise: at once, or if `deferred` when they are asked for."""

    deferred: bool
    first: AccordError | None = None

    def run(self, check: Callable[[], None]) -> None:
        try:
            check()
        except AccordError as error:
            if not self.deferred:
                raise
            self.first = self.first or error

    def raise_first(self) -> None:
        if self.first is not None:
            raise self.first
