"""Text and numbers as a page shows them.

Model text is untrusted: characters that a reader can't see, or that turn text around, are shown as
a replacement sign. (Markup is escaped by the templates.)
"""

from __future__ import annotations

import math
import re
from datetime import datetime

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters but for tab and line ends
    "\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # invisible, or turns the direction
    "\ud800-\udfff\ufffe\uffff]"  # no characters at all
)
REPLACEMENT = "\ufffd"


def visible(text: str) -> str:
    """The text with line ends as `\\n` and every unseen character as U+FFFD."""
    return _UNSEEN.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))


def split_text(text: str, limit: int = 700) -> tuple[str, str]:
    """The start of a text and its rest, cut at a space near the limit; nothing is lost."""
    if len(text) <= limit:
        return text, ""
    cut = text.rfind(" ", limit - 80, limit)
    cut = limit if cut < 0 else cut
    return text[:cut], text[cut:]


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals and a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """A difference, with its sign."""
    text = number(value, digits)
    return text if text.startswith("−") else f"+{text}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage; what is not quite none or all is not shown as none or all."""
    if share is None or not math.isfinite(share):
        return "–"
    smallest = 10.0**-digits
    if 0 < share * 100 < smallest / 2:
        return f"<{smallest:.{digits}f}%"
    if 100 - smallest / 2 < share * 100 < 100:
        return f">{100 - smallest:.{digits}f}%"
    return f"{share * 100:.{digits}f}%"


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval: "0.41 to 0.47", one-sided where an end is open, empty where there is none."""
    if low is None and high is None:
        return ""
    if high is None:
        return f"above {number(low, digits)}"
    if low is None:
        return f"below {number(high, digits)}"
    return f"{number(low, digits)} to {number(high, digits)}"


def spread(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval as briefly as it can be told: "±0.03" where it is even, else as `span`."""
    if value is None or low is None or high is None:
        return span(low, high, digits)
    if abs((high - value) - (value - low)) > 0.1 * (high - low) + 1e-12:
        return span(low, high, digits)
    return f"±{number((high - low) / 2, digits)}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: "8.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(value: str | None) -> str:
    """An ISO time without its seconds, such as "2025-03-01 14:05 UTC"; other text as it stands."""
    if not value:
        return ""
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return visible(value)
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".strip()


def listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
