"""Numbers and text as people read them."""

from __future__ import annotations

import math

import pytest

from accord.report.plain import (
    REPLACEMENT,
    duration,
    listed,
    moment,
    number,
    percent,
    signed,
    span,
    split_text,
    spread,
    visible,
)


def test_numbers() -> None:
    assert number(-1234.5678) == "−1,234.57"
    assert number(-0.001) == "0.00"  # no minus sign before nothing
    assert number(None) == number(math.nan) == "–"
    assert signed(0.5) == "+0.50"
    assert signed(-0.5) == "−0.50"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (0.001, "<1%"), (0.5, "50%"), (0.999, ">99%"), (1.0, "100%"), (None, "–")],
)
def test_nearly_none_and_nearly_all_are_not_none_and_all(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_intervals() -> None:
    assert span(0.414, 0.466) == "0.41 to 0.47"
    assert span(1000, None, 0) == "above 1,000"
    assert span(None, 1000, 0) == "below 1,000"
    assert span(None, None) == ""
    assert spread(0.5, 0.4, 0.6) == "±0.10"
    assert spread(0.5, 0.45, 0.7) == "0.45 to 0.70"
    assert spread(0.5, 0.4, None) == "above 0.40"


def test_durations_and_moments() -> None:
    assert duration(8.24) == "8.2 s"
    assert duration(59.97) == "1 min 00 s"
    assert duration(185) == "3 min 05 s"
    assert duration(7830) == "2 h 10 min"
    assert duration(None) == "–"
    assert moment("2025-03-01T14:05:09+00:00") == "2025-03-01 14:05 UTC"
    assert moment("yesterday") == "yesterday"
    assert moment(None) == ""


def test_unseen_characters_are_shown_and_the_rest_is_kept() -> None:
    # A null, a right-to-left override, a zero-width space and half a surrogate pair.
    assert (
        visible("a\x00b\u202ec\u200bd\ud800")
        == f"a{REPLACEMENT}b{REPLACEMENT}c{REPLACEMENT}d{REPLACEMENT}"
    )
    kept = "tab\there\nnew line — naïve 東京 🦊 <b>&amp;"
    assert visible(kept) == kept
    assert visible("a\r\nb\rc") == "a\nb\nc"


def test_long_texts_are_split_at_a_space_and_nothing_is_lost() -> None:
    text = "word " * 400
    head, rest = split_text(text)
    assert head + rest == text
    assert len(head) <= 700
    assert rest.startswith(" ")
    head, rest = split_text("x" * 1000)
    assert (len(head), len(rest)) == (700, 300)
    assert split_text("short") == ("short", "")


def test_lists() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
