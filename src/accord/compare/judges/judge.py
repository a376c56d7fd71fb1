"""A language model as a judge: it ranks responses to a prompt, or scores a single one.

A request whose verdict can't be parsed is retried; after the last attempt the verdict is missing.
It is never replaced by a tie, half a win or a score.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from accord.compare.judges.cache import CachedAnswer
from accord.compare.judges.endpoint import ChatRequest, Endpoint, Refusal
from accord.compare.judges.prompts import (
    format_rubric,
    pair_request,
    retry_request,
    score_request,
)
from accord.compare.judges.reading import PAIR_VERDICTS, parse_verdict, score_verdicts
from accord.compare.judges.thoughts import final_answer
from accord.compare.rewards.reward import PromptResponse
from accord.compare.texts import shorten
from accord.reasoning import answer_of
from accord.records import Prompt, ranks_from_scores
from accord.settings.endpoint import EndpointSettings

log = logging.getLogger(__name__)

T = TypeVar("T")


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
    """

    forward: Preferred | NoVerdict
    backward: Preferred | NoVerdict
    answers: tuple[str | None, str | None] = (None, None)

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


class AiJudge:
    """A judge at an endpoint. `usage` reports its cost and the distribution of its verdicts."""

    def __init__(self, settings: EndpointSettings, model: str) -> None:
        """Raises SettingsError where the key is not set or the principles can't be read."""
        self.endpoint = Endpoint(settings, model)
        self.rubric = format_rubric(settings)
        self.attempts = settings.attempts
        self.counts = VerdictCounts()

    def usage(self) -> dict[str, int]:
        """Calls, tokens and cached answers since the start, and the counts of the verdicts."""
        return {**self.endpoint.usage.to_json(), **asdict(self.counts)}

    def ranks(self, candidates: Sequence[Candidates]) -> list[Ranks | NoVerdict]:
        """The ranks by wins over the other responses, from K·(K − 1) calls for K responses: each
        pair is judged in both orders.

        A pair whose two verdicts differ is a tie, half a win for each. Candidates with a pair that
        has no verdict have none. Raises WorkError and SettingsError as `Endpoint.complete`.
        """
        return [
            ranked if isinstance(ranked, NoVerdict) else ranked.ranks
            for ranked in self.ranked_pairs(candidates)
        ]

    def ranked_pairs(self, candidates: Sequence[Candidates]) -> list[RankedPairs | NoVerdict]:
        """As `ranks`, with the verdicts that the ranks are made of."""
        pairs = [_make_pairs(one_prompt) for one_prompt in candidates]
        judged = iter(self.both_orders([pair for of_prompt in pairs for pair in of_prompt]))
        results: list[RankedPairs | NoVerdict] = []
        for one_prompt, of_prompt in zip(candidates, pairs, strict=True):
            orders = tuple(itertools.islice(judged, len(of_prompt)))
            missing = next((both.missing for both in orders if both.missing is not None), None)
            outcomes = [None if both.undecided else _preferred(both) for both in orders]
            ranks = ranks_by_wins(len(one_prompt.responses), outcomes)
            results.append(missing or RankedPairs(ranks, orders))
        return results

    def scores(
        self, rows: Sequence[PromptResponse], *, lowest: int, highest: int
    ) -> list[int | NoVerdict]:
        """A score from `lowest` to `highest` for each response: one call. Raises as `ranks`."""
        requests = [
            score_request(
                self.rubric, row.prompt, row.answer, row.finished, lowest=lowest, highest=highest
            )
            for row in rows
        ]
        return self._request_verdicts(requests, "score", score_verdicts(lowest, highest))

    def both_orders(self, pairs: Sequence[Candidates], *, repeat: int = 0) -> list[BothOrders]:
        """The verdicts on each pair of responses in both orders, from two calls. Two equal texts
        need no judge: they tie.

        With `repeat` the same requests are sent again, once for each number: their answers have
        entries of their own in the cache. Raises as `ranks`.
        """
        orders = [order for pair in pairs for order in (pair, _swap(pair))]
        requests = [
            replace(pair_request(self.rubric, o.prompt, o.answers, o.finished), repeat=repeat)
            for o in orders
        ]
        needed = [i for i, order in enumerate(orders) if not _are_equal(order)]
        given = self._request_answers([requests[i] for i in needed], "verdict", PAIR_VERDICTS)
        by_order = dict(zip(needed, given, strict=True))
        results = []
        for i in range(0, len(orders), 2):
            if i not in by_order:
                results.append(BothOrders(None, None))
                continue
            (forward, text), (backward, swapped_text) = by_order[i], by_order[i + 1]
            backward = 1 - backward if isinstance(backward, int) else backward
            both = BothOrders(forward, backward, (text, swapped_text))
            self._count(both)
            results.append(both)
        return results

    def _count(self, both: BothOrders) -> None:
        counts = self.counts
        counts.pairs += 1
        if both.missing is not None:
            return
        for first, verdict in ((0, both.forward), (1, both.backward)):
            counts.first += verdict == first
            counts.second += verdict == 1 - first
            counts.tie += verdict is None
        counts.order_disagreements += both.undecided

    def _request_verdicts(
        self, requests: Sequence[ChatRequest], key: str, verdicts: Mapping[str, T]
    ) -> list[T | NoVerdict]:
        return [verdict for verdict, _ in self._request_answers(requests, key, verdicts)]

    def _request_answers(
        self, requests: Sequence[ChatRequest], key: str, verdicts: Mapping[str, T]
    ) -> list[tuple[T | NoVerdict, str | None]]:
        """The verdict on each request with the text of the last answer, None where the server
        refused; those that can't be parsed are retried."""
        results: list[T | NoVerdict] = [NoVerdict("not asked")] * len(requests)
        texts: list[str | None] = [None] * len(requests)
        pending = list(range(len(requests)))
        for attempt in range(self.attempts):
            answers = self.endpoint.complete([retry_request(requests[i], attempt) for i in pending])
            unreadable = []
            for i, answer in zip(pending, answers, strict=True):
                if isinstance(answer, Refusal):
                    results[i] = NoVerdict(
                        f"the server refused the request ({answer.reason})", answer.advice
                    )
                    continue
                texts[i] = answer.text
                verdict = None if answer.cut else parse_verdict(answer.text, key, verdicts)
                if verdict is not None:
                    results[i] = verdict[0]
                    continue
                results[i] = self._unreadable(answer)
                unreadable.append(i)
            self.counts.unreadable_answers += len(unreadable)
            pending = unreadable
        missing = [result for result in results if isinstance(result, NoVerdict)]
        self.counts.missing += len(missing)
        if missing:
            log.warning(
                "The judge %s gave no verdict on %d of %d requests. Of the first: %s.",
                self.endpoint.model,
                len(missing),
                len(results),
                missing[0].reason,
            )
        return list(zip(results, texts, strict=True))

    def _unreadable(self, answer: CachedAnswer) -> NoVerdict:
        """No verdict from an answer, with what helps against the way in which it is unreadable."""
        limit = f"answer_tokens={self.endpoint.settings.answer_tokens}"
        if answer.cut:
            fault = "was cut before its end"
            advice = f"Raise the judge's {limit}, or use a model that reasons less."
        elif not answer.text.strip():
            fault = "is empty"
            advice = f"Raise the judge's {limit}: reasoning may have taken all of them."
        elif final_answer(answer.text) is None:
            fault = "holds thoughts without an end"
            advice = "Serve the judge with its reasoning parser, or switch its reasoning off."
        else:
            fault = "holds no such value"
            advice = "Use a model that follows the form of the answer."
        return NoVerdict(f"the answer {shorten(repr(answer.text))} {fault}", advice)


def _preferred(both: BothOrders) -> Preferred:
    """The verdict in the first order; None where there is none."""
    return None if isinstance(both.forward, NoVerdict) else both.forward


def ranks_by_wins(count: int, outcomes: Sequence[int | None]) -> Ranks:
    """The ranks of `count` responses from the outcomes of their pairs, in the order of
    `itertools.combinations`: 0 for the earlier one, 1 for the later, None for a tie, half a win."""
    wins = [0.0] * count
    for (i, j), outcome in zip(itertools.combinations(range(count), 2), outcomes, strict=True):
        wins[i] += 0.5 if outcome is None else outcome == 0
        wins[j] += 0.5 if outcome is None else outcome == 1
    return ranks_from_scores(wins)


def _make_pairs(candidates: Candidates) -> list[Candidates]:
    """All pairs of the responses."""
    responses = list(zip(candidates.responses, candidates.finished, strict=True))
    return [
        Candidates(candidates.prompt, (a[0], b[0]), (a[1], b[1]))
        for a, b in itertools.combinations(responses, 2)
    ]


def _swap(pair: Candidates) -> Candidates:
    return Candidates(pair.prompt, pair.responses[::-1], pair.finished[::-1])


def _are_equal(pair: Candidates) -> bool:
    return len(set(zip(pair.answers, pair.finished, strict=True))) == 1
