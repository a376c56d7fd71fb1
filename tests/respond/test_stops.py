"""Stop strings, and the text of a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from accord.respond.protocol import Sample
from accord.respond.stops import MARGIN_TOKENS, StopStrings
from accord.respond.text import response_text

PIECES = ["", "a", "b", "ab", "stop", "st", "op", " ", "\n", "\n\n", "x"]


class PiecesTokenizer:
    """A tokenizer whose token n decodes to PIECES[n]; it counts the tokens that it decodes."""

    pad_token = chat_template = unk_token_id = None
    all_special_tokens: tuple[str, ...] = ()
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self) -> None:
        self.num_decoded = 0

    def __len__(self) -> int:
        return len(PIECES)

    def convert_tokens_to_ids(self, token: str) -> None:
        return None

    def decode(self, ids: Sequence[int], **options: bool) -> str:
        self.num_decoded += len(ids)
        return "".join(PIECES[i] for i in ids)


def stops(*strings: str) -> StopStrings:
    return StopStrings(strings, PiecesTokenizer().decode)


def test_a_string_may_be_completed_within_a_token_or_over_several() -> None:
    assert stops("stop").find_in([1, 4]) == "stop"
    assert stops("stop").find_in([1, 5, 6]) == "stop"
    assert stops("stop").find_in([1, 5]) is None
    assert stops("b").find_in([3]) == "b"
    assert stops("\n\n").find_in([1, 8, 8]) == "\n\n"


def test_the_string_that_begins_first_is_returned() -> None:
    assert stops("b", "a").find_in([3]) == "a"
    assert stops("op", "stop").find_in([4]) == "stop"


def test_a_string_at_the_very_end_of_a_long_response_is_found() -> None:
    tokenizer = PiecesTokenizer()
    stop_strings = StopStrings(["stop"], tokenizer.decode)
    tokens = [10] * 5000
    assert stop_strings.find_in([*tokens, 5]) is None
    assert tokenizer.num_decoded == len("stop") + MARGIN_TOKENS  # not all of it
    assert stop_strings.find_in([*tokens, 5, 6]) == "stop"


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
def test_the_text_ends_before_eos_or_the_stop_string(sample: Sample, text: str) -> None:
    assert response_text(sample, PiecesTokenizer()) == text
