"""What a judge is asked, and what it answers: ranks, verdicts in both orders, or no verdict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from accord.reasoning import answer_of
from accord.records import Prompt, ranks_from_scores


@dataclass(frozen=True, slots=True)
class Candidates:
    """Responses to one prompt that a judge ranks. `seed` is for judges that add noise.

    `finished[i]` is False for a response that was cut before its end.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    finished: tuple[bool, ...]
    seed: int = 0

    @property
    def answers(self) -> tuple[str, ...]:
        """The responses without their reasoning."""
        return tuple(map(answer_of, self.responses))


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """A judge gave no verdict: why, and the remedy. It is left out, never replaced by a value."""

    reason: str
    advice: str = ""


Ranks = tuple[int, ...]
"""The rank of each response, 0 best, equal = tie."""

Preferred = int | None
"""The index of the better of two responses, None for a tie."""


@dataclass(frozen=True, slots=True)
class BothOrders:
    """A judge's verdicts on a pair with its first response shown first, and shown second. Both
    name the response by its index in the pair.

    `answers` are the texts that they were read from, in the same order; None where it gave none.
    `shown_first` are the probabilities, in each order, that the response shown first is the better
    one, where the judge gives them.
    """

    forward: Preferred | NoVerdict
    backward: Preferred | NoVerdict
    answers: tuple[str | None, str | None] = (None, None)
    shown_first: tuple[float | None, float | None] = (None, None)

    @property
    def probability(self) -> float | None:
        """The probability that the pair's first response is the better one, the mean of both
        orders; None where the judge does not give both."""
        forward, backward = self.shown_first
        return None if forward is None or backward is None else (forward + 1 - backward) / 2

    @property
    def missing(self) -> NoVerdict | None:
        """The first of the two that is no verdict."""
        both = (self.forward, self.backward)
        return next((verdict for verdict in both if isinstance(verdict, NoVerdict)), None)

    @property
    def undecided(self) -> bool:
        """Whether both orders have a verdict, and not the same one."""
        return self.missing is None and self.forward != self.backward


@dataclass(frozen=True, slots=True)
class RankedPairs:
    """The ranks of responses by their wins, and the verdicts on each pair of them, in the order of
    `itertools.combinations`."""

    ranks: Ranks
    pairs: tuple[BothOrders, ...]


@dataclass
class VerdictCounts:
    """Counts of the verdicts on pairs, each judged in both orders, and of failures.

    `first`, `second` and `tie` count single verdicts by the position of the preferred response: a
    judge without position bias prefers the first as often as the second.
    """

    pairs: int = 0
    order_disagreements: int = 0
    first: int = 0
    second: int = 0
    tie: int = 0
    unreadable_answers: int = 0
    missing: int = 0


def ranks_by_wins(count: int, outcomes: Sequence[int | None]) -> Ranks:
    """The ranks of `count` responses from the outcomes of their pairs, in the order of
    `itertools.combinations`: 0 for the earlier one, 1 for the later, None for a tie, half a win."""
    wins = [0.0] * count
    for (i, j), outcome in zip(itertools.combinations(range(count), 2), outcomes, strict=True):
        wins[i] += 0.5 if outcome is None else outcome == 0
        wins[j] += 0.5 if outcome is None else outcome == 1
    return ranks_from_scores(wins)


def make_pairs(candidates: Candidates) -> list[Candidates]:
    """All pairs of the responses."""
    responses = list(zip(candidates.responses, candidates.finished, strict=True))
    return [
        Candidates(candidates.prompt, (a[0], b[0]), (a[1], b[1]))
        for a, b in itertools.combinations(responses, 2)
    ]


def swap(pair: Candidates) -> Candidates:
    """The pair with its second response first."""
    return Candidates(pair.prompt, pair.responses[::-1], pair.finished[::-1], pair.seed)


def are_equal(pair: Candidates) -> bool:
    """Whether two responses are the same, so that no judge is needed: they tie."""
    return len(set(zip(pair.answers, pair.finished, strict=True))) == 1
