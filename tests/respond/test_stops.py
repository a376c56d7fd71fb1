"""Stop strings, and the text of a response."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from accord.respond.protocol import Sample
from accord.respond.stops import MARGIN, Stop
from accord.respond.text import response_text

PIECES = ["", "a", "b", "ab", "stop", "st", "op", " ", "\n", "\n\n", "x"]


class Pieces:
    """A tokenizer whose token n reads PIECES[n]; it counts what it reads."""

    def __init__(self) -> None:
        self.read = 0

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        self.read += len(ids)
        return "".join(PIECES[i] for i in ids)


def stop(*strings: str) -> Stop:
    return Stop(strings, Pieces().decode)


def test_a_string_may_be_completed_within_a_token_or_over_several() -> None:
    assert stop("stop").ended_by([1, 4]) == "stop"
    assert stop("stop").ended_by([1, 5, 6]) == "stop"
    assert stop("stop").ended_by([1, 5]) is None
    assert stop("b").ended_by([3]) == "b"
    assert stop("\n\n").ended_by([1, 8, 8]) == "\n\n"


def test_the_string_that_begins_first_counts() -> None:
    assert stop("b", "a").ended_by([3]) == "a"
    assert stop("op", "stop").ended_by([4]) == "stop"


def test_a_string_at_the_very_end_of_a_long_response_is_found() -> None:
    tokenizer = Pieces()
    checks = Stop(["stop"], tokenizer.decode)
    tokens = [10] * 5000
    assert checks.ended_by([*tokens, 5]) is None
    assert tokenizer.read == len("stop") + MARGIN  # not all of it
    assert checks.ended_by([*tokens, 5, 6]) == "stop"


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (Sample((1, 2, 0), (0.0,) * 3, True), "ab"),  # the last token is EOS
        (Sample((1, 2), (0.0,) * 2, False), "ab"),
        (Sample((1, 4), (0.0,) * 2, True, "stop"), "a"),
        (Sample((1, 5, 6, 1), (0.0,) * 4, True, "stop"), "a"),
        (Sample((7, 1, 7, 9), (0.0,) * 4, True, "\n"), " a "),
    ],
)
def test_the_text_is_what_stands_before(sample: Sample, text: str) -> None:
    assert response_text(sample, Pieces()) == text
