"""An answer that is the log-probabilities of the letters A and B, and the verdict in it."""

from __future__ import annotations

import json
import math

LARGEST = 700.0  # difference of log-probabilities, beyond which exp overflows


def write_letters(a: float, b: float) -> str:
    """The log-probabilities of A and B, in nats, as an answer's text."""
    return json.dumps({"A": round(a, 8), "B": round(b, 8)})


def read_letters(text: str) -> float | None:
    """The probability of A against B in such a text: e^a / (e^a + e^b). None in any other text."""
    try:
        row = json.loads(text)
        difference = float(row["B"]) - float(row["A"])
    except (ValueError, TypeError, KeyError):
        return None
    if math.isnan(difference):
        return None
    return 1 / (1 + math.exp(min(difference, LARGEST)))


def preferred(probability: float, tie_margin: float) -> int | None:
    """The index of the response that a probability of the first prefers; None for a tie, where it
    is no further than the margin from one half."""
    if abs(probability - 0.5) <= tie_margin:
        return None
    return 0 if probability > 0.5 else 1
