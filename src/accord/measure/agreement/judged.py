"""Pairs of responses that people and a judge have judged, as arrays of codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accord.measure.agreement.ratings import Codes
from accord.measure.statistics import Floats

A, B, TIE, NONE = 0, 1, 2, -1
CATEGORIES = 3
NAMES = ("the first response", "the second response", "a tie")


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """N pairs of responses a and b to one prompt each.

    `people`, `forward` and `backward` [N] are verdicts as codes: A, B, TIE, or NONE where there is
    none. All name the response, wherever it was shown: the judge saw a first in `forward`, and b
    first in `backward`. `length_a` and `length_b` [N] are in characters. `prompt` [N] numbers the
    prompts, which are the independent units. `own_side` [N] is A or B for the response that the
    judge's own model wrote, and NONE where it wrote neither or both.
    """

    people: Codes
    forward: Codes
    backward: Codes
    length_a: Floats
    length_b: Floats
    prompt: Codes
    own_side: Codes

    def __len__(self) -> int:
        return len(self.people)

    @property
    def asked(self) -> NDArray[np.bool_]:
        """The pairs with a verdict of the judge in both orders, and of people."""
        return (self.forward >= 0) & (self.backward >= 0) & (self.people >= 0)

    @property
    def labels(self) -> Codes:
        """The judge's label: its verdict where both orders give the same one, else NONE."""
        return np.where(self.forward == self.backward, self.forward, NONE)


def code_people(votes: list[list[int]]) -> Codes:
    """People's label of each pair from the codes of its votes: the value that more than half gave,
    NONE where none has more than half, or nobody voted."""
    labels = np.full(len(votes), NONE, dtype=np.int64)
    for row, codes in enumerate(votes):
        counts = np.bincount(codes, minlength=CATEGORIES) if codes else np.zeros(1)
        if 2 * counts.max() > len(codes):
            labels[row] = int(counts.argmax())
    return labels


def group_by_prompt(values: Floats, prompt: Codes) -> list[Floats]:
    """The values of each prompt."""
    order = np.argsort(prompt, kind="stable")
    ends = np.flatnonzero(np.diff(prompt[order])) + 1
    return np.split(values[order], ends) if len(order) else []
