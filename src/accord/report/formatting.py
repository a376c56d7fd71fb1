"""Text and numbers in the form in which the report shows them.

Model text is untrusted: characters that a reader can't see, or that change the direction of text,
are replaced by a replacement character. (The templates escape markup.)
"""

from __future__ import annotations

import math
import re
from datetime import datetime

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters except tab and line ends
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # invisible, or
    "\ufff9-\ufffb\U000e0000-\U000e007f"  # changes the direction
    "\ud800-\udfff\ufffe\uffff]"  # no characters at all
)
REPLACEMENT = "\ufffd"


def visible(text: str) -> str:
    """The text with line ends as `\\n` and every unseen character as U+FFFD."""
    return _UNSEEN.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n"))


def split_text(text: str, limit: int = 700, max_lines: int = 16) -> tuple[str, str]:
    """The start of a text and its rest, split at a space near the limit of characters, or after
    `max_lines` lines; nothing is lost."""
    line_ends = [i for i, character in enumerate(text[:limit]) if character == "\n"]
    if len(line_ends) >= max_lines and text[line_ends[max_lines - 1] :].strip():
        cut = line_ends[max_lines - 1]
        return text[:cut], text[cut:]
    if len(text) <= limit:
        return text, ""
    cut = text.rfind(" ", limit - 80, limit)
    cut = limit if cut < 0 else cut
    return text[:cut], text[cut:]


def format_number(value: float | None, digits: int = 2) -> str:
    """A number with this number of decimals and a true minus sign; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−")


def format_signed(value: float, digits: int = 2) -> str:
    """A difference, with its sign."""
    text = format_number(value, digits)
    return text if text.startswith("−") else f"+{text}"


def format_percent(share: float | None, digits: int = 0) -> str:
    """A share as a percentage; what is not exactly 0 or 1 is not rounded to 0% or 100%."""
    if share is None or not math.isfinite(share):
        return "–"
    smallest = 10.0**-digits
    if 0 < share * 100 < smallest / 2:
        return f"<{smallest:.{digits}f}%"
    if 100 - smallest / 2 < share * 100 < 100:
        return f">{100 - smallest:.{digits}f}%"
    return f"{share * 100:.{digits}f}%"


def format_p(value: float) -> str:
    """A p-value: "p = 0.034", or "p < 0.001"."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def format_interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval: "0.41 to 0.47", one-sided where an end is open, empty where both are."""
    if low is None and high is None:
        return ""
    if high is None:
        return f"above {format_number(low, digits)}"
    if low is None:
        return f"below {format_number(high, digits)}"
    return f"{format_number(low, digits)} to {format_number(high, digits)}"


def format_margin(
    value: float | None, low: float | None, high: float | None, digits: int = 2
) -> str:
    """An interval in short form: "±0.03" where it is symmetric, else as `format_interval`."""
    if value is None or low is None or high is None:
        return format_interval(low, high, digits)
    if abs((high - value) - (value - low)) > 0.1 * (high - low) + 1e-12:
        return format_interval(low, high, digits)
    return f"±{format_number((high - low) / 2, digits)}"


def format_duration(seconds: float | None) -> str:
    """Seconds in the largest fitting units: "8.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_time(value: str | None) -> str:
    """An ISO time without its seconds, such as "2025-03-01 14:05 UTC"; other text unchanged."""
    if not value:
        return ""
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return visible(value)
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".strip()


def format_share(share: float) -> str:
    """A share as a percentage that is never rounded to 0% or 100%: one decimal, and near both ends
    as many as show two digits, so that small shares differ."""
    percent = 100 * share
    if percent in (0.0, 100.0):
        return f"{percent:.0f}%"
    if 0.95 <= percent < 99.05:
        return f"{percent:.1f}%"
    near = min(percent, 100 - percent)
    return f"{percent:.{min(8, 1 - math.floor(math.log10(near)))}f}%"
