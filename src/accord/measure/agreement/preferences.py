"""What a judge prefers for the wrong reason: a position, a length, its own model's answers.

Each preference is measured net of what people show on the same rows. A judge is not called biased
for a preference that people have too: longer answers may be the better ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accord.measure.agreement.judged import NONE, TIE, A, B, JudgedPairs, group_by_prompt
from accord.measure.agreement.ratings import Codes
from accord.measure.statistics import (
    NO_DATA,
    Floats,
    Interval,
    clustered_interval,
    clustered_proportion,
    difference_interval,
    unseen_share,
)

Finding = Literal["biased", "shared", "not seen", "unknown"]

TOLERANCE = 0.1  # an excess that the data can't bound by this is unknown
FEW_ROWS = 10


@dataclass(frozen=True, slots=True)
class Preference:
    """How often a judge and people prefer one kind of response, over the same `rows`.

    `judge` and `people` are shares in which a tie counts half, `excess` is judge − people, all with
    intervals that take prompts as independent. `finding` is `biased` where the judge's preference
    goes beyond people's and people show none of the same direction, `shared` where they show one.
    """

    name: str
    rows: int
    judge: Interval
    people: Interval
    excess: Interval
    finding: Finding
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "judge": self.judge.to_json(),
            "people": self.people.to_json(),
            "excess": self.excess.to_json(),
            "finding": self.finding,
            "sentence": self.sentence,
        }


def measure_preferences(pairs: JudgedPairs, *, confidence: float = 0.95) -> dict[str, Preference]:
    """The judge's preference for the response shown first, for the longer one, and for its own
    model's, by the names `position`, `length` and `own model`."""
    half = np.full(len(pairs), 0.5)
    first = (_side_score(pairs.forward, A) + _side_score(pairs.backward, B)) / 2
    longer = np.sign(pairs.length_b - pairs.length_a)  # 1 where b is longer
    long_side = np.where(longer > 0, B, np.where(longer < 0, A, NONE))
    # Each pair was shown in both orders, so people prefer the first in exactly half of them.
    return {
        "position": _compare(
            pairs, first, half, pairs.asked, ("the response shown first", "the second"), confidence
        ),
        "length": _compare_side(
            pairs, long_side, ("the longer response", "the shorter one"), confidence
        ),
        "own model": _compare_side(
            pairs, pairs.own_side, ("its own model's response", "the other model's"), confidence
        ),
    }


def _compare_side(
    pairs: JudgedPairs, side: Codes, names: tuple[str, str], confidence: float
) -> Preference:
    judge = (_side_score(pairs.forward, side) + _side_score(pairs.backward, side)) / 2
    people = _side_score(pairs.people, side)
    return _compare(pairs, judge, people, pairs.asked & (side != NONE), names, confidence)


def _side_score(verdicts: Codes, side: Codes | int) -> Floats:
    """1 where the verdict is this side, one half for a tie, 0 for the other side."""
    return np.where(verdicts == TIE, 0.5, (verdicts == side).astype(np.float64))


def _compare(
    pairs: JudgedPairs,
    judge: Floats,
    people: Floats,
    rows: NDArray[np.bool_],
    names: tuple[str, str],
    confidence: float,
) -> Preference:
    count = int(rows.sum())
    name = names[0]
    if count < FEW_ROWS:
        sentence = f"Too few rows ({count}) show whether it prefers {name}."
        return Preference(name, count, NO_DATA, NO_DATA, NO_DATA, "unknown", sentence)
    prompt = pairs.prompt[rows]
    by_prompt = [group_by_prompt(values[rows], prompt) for values in (judge, people)]
    shares = [clustered_proportion(group, confidence=confidence) for group in by_prompt]
    excess = _excess(judge[rows] - people[rows], prompt, shares[0], shares[1], confidence)
    finding, direction = _find(shares[0], shares[1], excess)
    sentence = _sentence(shares[0], shares[1], excess, finding, names, direction)
    return Preference(name, count, shares[0], shares[1], excess, finding, sentence)


def _excess(
    differences: Floats, prompt: Codes, judge: Interval, people: Interval, confidence: float
) -> Interval:
    """judge − people over the same rows. Where all rows differ by the same, the spread of what was
    not seen is that of the exact shares."""
    if np.ptp(differences) > 0:
        return clustered_interval(group_by_prompt(differences, prompt), confidence=confidence)
    mean = float(differences[0])
    if mean == 0:
        prompts = len(np.unique(prompt))
        half = unseen_share(prompts, confidence=confidence)
        return Interval(0.0, -half, half)
    exact = difference_interval(judge, people)
    return Interval(mean, exact.low, exact.high)


def _find(judge: Interval, people: Interval, excess: Interval) -> tuple[Finding, int]:
    """The finding, and the direction of the judge's preference: 1, −1, or 0."""
    if excess.low is None or excess.high is None:
        return "unknown", 0
    direction = 1 if excess.low > 0 else -1 if excess.high < 0 else 0
    if direction and _beyond_half(judge) == direction:
        return ("shared" if _beyond_half(people) == direction else "biased"), direction
    if direction == 0 and max(-excess.low, excess.high) > TOLERANCE:
        return "unknown", 0
    return "not seen", 0


def _beyond_half(share: Interval) -> int:
    """1 or −1 where the whole interval lies above or below one half, else 0."""
    if share.low is None or share.high is None:
        return 0
    return 1 if share.low > 0.5 else -1 if share.high < 0.5 else 0


def _sentence(
    judge: Interval,
    people: Interval,
    excess: Interval,
    finding: Finding,
    names: tuple[str, str],
    direction: int,
) -> str:
    j, p = judge.mean, people.mean
    name = names[0]
    if direction < 0:
        j, p, name = 1 - j, 1 - p, names[1]
    shares = f"{name} in {j:.0%} of its verdicts, people in {p:.0%} on the same rows"
    if finding == "biased":
        return f"It prefers {shares}."
    if finding == "shared":
        return (
            f"It prefers {shares}: people prefer it too, so that this is not called a bias, "
            f"although it goes {abs(excess.mean) * 100:.0f} points beyond theirs."
        )
    span = ""
    if excess.low is not None and excess.high is not None:
        span = f", a difference of {excess.low * 100:+.0f} to {excess.high * 100:+.0f} points"
    if finding == "unknown":
        return f"Whether it prefers {name} is unknown: {j:.0%} against people's {p:.0%}{span}."
    if _beyond_half(judge) == 0:
        return f"It prefers neither {name} nor {names[1]}: {j:.0%}, people {p:.0%}{span}."
    return f"It prefers {name} no more than people: {j:.0%} against their {p:.0%}{span}."


def repeatability(
    first: Sequence[int], second: Sequence[int], prompt: Sequence[int], *, confidence: float = 0.95
) -> Interval:
    """The share of questions with the same verdict when asked again, with its exact interval;
    questions without a verdict in either are left out."""
    pairs = [np.asarray(column, dtype=np.int64) for column in (first, second, prompt)]
    answered = (pairs[0] >= 0) & (pairs[1] >= 0)
    same = (pairs[0] == pairs[1])[answered].astype(np.float64)
    if not same.size:
        return NO_DATA
    return clustered_proportion(group_by_prompt(same, pairs[2][answered]), confidence=confidence)
