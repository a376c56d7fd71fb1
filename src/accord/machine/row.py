"""A row of `accord doctor`: what was looked at, how it is, why that matters, what mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "absent", "failed", "slow"]
Section = Literal["machine", "installed", "works", "speed"]


@dataclass(frozen=True, slots=True)
class DoctorRow:
    """`absent` is what nobody needs who does not use it; `slow` works, and could be faster.

    `detail` is what was seen, `remedy` a command or setting, with its reason.
    """

    section: Section
    name: str
    state: State
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def attempt(section: Section, name: str, look: Callable[[], DoctorRow]) -> DoctorRow:
    """The row of a look; where it raises, a row that says what was raised.

    Anything may be wrong with an installation, so any exception becomes a row, and so does the
    exit of a library that ends the process at its import.
    """
    try:
        return look()
    except (Exception, SystemExit) as error:
        return DoctorRow(section, name, "failed", error_text(error))


def error_text(error: BaseException) -> str:
    """The class and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
