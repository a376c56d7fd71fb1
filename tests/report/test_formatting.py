"""Numbers and text in the form in which the report shows them."""

from __future__ import annotations

import math

import pytest

from accord.measure.measures import Column
from accord.measure.ratings.notes import join_names
from accord.report.formatting import (
    REPLACEMENT,
    format_duration,
    format_interval,
    format_margin,
    format_number,
    format_percent,
    format_signed,
    format_time,
    split_text,
    visible,
)
from accord.report.tables.cells import table_cell


def test_numbers() -> None:
    assert format_number(-1234.5678) == "−1,234.57"
    assert format_number(-0.001) == "0.00"  # no minus sign before zero
    assert format_number(None) == format_number(math.nan) == "–"
    assert format_signed(0.5) == "+0.50"
    assert format_signed(-0.5) == "−0.50"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (0.001, "<1%"), (0.5, "50%"), (0.999, ">99%"), (1.0, "100%"), (None, "–")],
)
def test_shares_near_0_and_1_are_not_rounded_to_them(share: float | None, text: str) -> None:
    assert format_percent(share) == text


def test_intervals() -> None:
    assert format_interval(0.414, 0.466) == "0.41 to 0.47"
    assert format_interval(1000, None, 0) == "above 1,000"
    assert format_interval(None, 1000, 0) == "below 1,000"
    assert format_interval(None, None) == ""
    assert format_margin(0.5, 0.4, 0.6) == "±0.10"
    assert format_margin(0.5, 0.45, 0.7) == "0.45 to 0.70"
    assert format_margin(0.5, 0.4, None) == "above 0.40"


def test_unseen_characters_are_shown_as_such() -> None:
    unseen = "\x1b[31m \u202eevil \u061c \u00ad \U000e0041 \u200b"
    assert not set(visible(unseen)) & set("\x1b\u202e\u061c\u00ad\U000e0041\u200b")
    written = "👩‍👩‍👧 שלום می‌خواهم é 漢字"  # emoji and Persian need their joiners
    assert visible(written) == written


def test_a_text_is_folded_at_its_characters_or_its_lines() -> None:
    lines = "\n".join(f"- {i}" for i in range(40))
    start, rest = split_text(lines)
    assert start.count("\n") == 15
    assert start + rest == lines
    assert split_text("a\nb\n\n") == ("a\nb\n\n", "")
    assert split_text("x" * 1500) == ("x" * 700, "x" * 800)


def test_durations_and_times() -> None:
    assert format_duration(8.24) == "8.2 s"
    assert format_duration(59.97) == "1 min 00 s"
    assert format_duration(185) == "3 min 05 s"
    assert format_duration(7830) == "2 h 10 min"
    assert format_duration(None) == "–"
    assert format_time("2025-03-01T14:05:09+00:00") == "2025-03-01 14:05 UTC"
    assert format_time("yesterday") == "yesterday"
    assert format_time(None) == ""


def test_unseen_characters_are_replaced_and_others_are_not() -> None:
    # A null, a right-to-left override, a zero-width space and half a surrogate pair.
    assert (
        visible("a\x00b\u202ec\u200bd\ud800")
        == f"a{REPLACEMENT}b{REPLACEMENT}c{REPLACEMENT}d{REPLACEMENT}"
    )
    unchanged = "tab\there\nnew line — naïve 東京 🦊 <b>&amp;"
    assert visible(unchanged) == unchanged
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


def test_names_in_a_sentence() -> None:
    assert join_names(["a"]) == "a"
    assert join_names(["a", "b", "c"]) == "a, b and c"


def test_a_rank_has_bounds_where_others_are_possible() -> None:
    column = Column("Rank", format="rank", digits=0)
    assert table_cell(2.0, 1.0, 3.0, column).small == "1 to 3"
    assert table_cell(2.0, 2.0, 2.0, column).small == ""
    assert table_cell(2.0, None, None, column).text == "2"
