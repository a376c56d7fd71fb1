"""Names of columns that hold one response of a pair, and of those that say which is preferred."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_RESPONSE = (
    r"(?:model_?|assistant_?|gpt_?|bot_?)?"
    r"(?:output|response|answer|completion|generation|candidate|reply|summary|conversation"
    r"|messages|human_ref)s?"
)
_RESPONSE_NAME = re.compile(rf"{_RESPONSE}[ _-]?(?:\d|[a-e])?", re.IGNORECASE)
_NUMBERED = re.compile(rf"{_RESPONSE}[ _-]?(?:\d|[a-e])", re.IGNORECASE)
_ANNOTATOR = re.compile(r"(?:annotator|annotation|rater|labell?er|human)[ _-]?\d+", re.IGNORECASE)
SUFFIXES = (("1", "2"), ("0", "1"), ("a", "b"), ("A", "B"))
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
STRENGTHS = ("overall_preference", "preference_strength")
"""Below 0 the first response is better, above 0 the second, as in HelpSteer2 and HelpSteer3."""
LABELS = (
    "preferred",
    "preference",
    "winner",
    "better_response_id",
    "better_response",
    "better",
    "choice",
    "label",
    "labels",
    *STRENGTHS,
    "human_preference",
    "selected",
    "best",
    "verdict",
)


def find_pair(columns: Collection[str]) -> dict[str, str]:
    """The names of `response_a`, `response_b` and `preferred` among the columns; empty where a pair
    or its label is missing, or where more than two responses are numbered."""
    for first, second in _response_pairs(columns):
        label = _find_label(columns, first[-1], second[-1])
        if label is not None:
            return {"response_a": first, "response_b": second, "preferred": label}
    return {}


def find_panel(columns: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The names of `response_a` and `response_b`, and those of the columns with a label of each
    annotator (`annotator1`, `annotator2`, …); both empty where there are none of these."""
    labels = [column for column in columns if _ANNOTATOR.fullmatch(column)]
    for first, second in _response_pairs(columns):
        if labels:
            return {"response_a": first, "response_b": second}, labels
    return {}, []


def _response_pairs(columns: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every two columns that are a pair of responses, in order."""
    numbered = [column for column in columns if _NUMBERED.fullmatch(column)]
    for first in numbered:
        for one, two in SUFFIXES:
            second = first[:-1] + two
            if not first.endswith(one) or second not in numbered:
                continue
            stem = first[:-1]
            if sum(column[:-1] == stem for column in numbered) <= 2:
                yield first, second


def _find_label(columns: Collection[str], one: str, two: str) -> str | None:
    if set(ONE_HOT) <= set(columns):
        return ONE_HOT[0]
    by_name = next((name for name in LABELS if name in columns), None)
    if by_name is not None:
        return by_name
    for stem in ("score_", "rating_", "reward_", "score", "rating", "reward", "scores_"):
        if stem + one in columns and stem + two in columns:
            return stem + one
    return None


def looks_like_response(column: str) -> bool:
    """Whether a column's name is that of a response, such as `output_1` or `answer_b`."""
    return _NUMBERED.fullmatch(column) is not None


def names_a_response(column: str) -> bool:
    """As `looks_like_response`, also without a number: `response`, `model_output`."""
    return _RESPONSE_NAME.fullmatch(column) is not None
