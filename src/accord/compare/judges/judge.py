"""A language model as a judge: it ranks responses to a prompt, or scores a single one.

A request whose verdict can't be parsed is retried; after the last attempt the verdict is missing.
It is never replaced by a tie, half a win or a score.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

from accord.compare.judges.cache import CachedAnswer
from accord.compare.judges.endpoint import ChatRequest, Endpoint, Refusal, Usage
from accord.compare.judges.letters import preferred, read_letters
from accord.compare.judges.prompts import (
    format_rubric,
    letter_request,
    pair_request,
    retry_request,
    score_request,
)
from accord.compare.judges.questions import (
    BothOrders,
    Candidates,
    NoVerdict,
    Preferred,
    RankedPairs,
    Ranks,
    VerdictCounts,
    are_equal,
    make_pairs,
    ranks_by_wins,
    swap,
)
from accord.compare.judges.reading import PAIR_VERDICTS, parse_verdict, score_verdicts
from accord.compare.judges.references import find_reference
from accord.compare.judges.thoughts import final_answer
from accord.compare.rewards.reward import PromptResponse
from accord.compare.texts import shorten
from accord.settings.endpoint import EndpointSettings

log = logging.getLogger(__name__)

T = TypeVar("T")


PairAnswer = tuple[Preferred | NoVerdict, str | None, float | None]
"""A verdict by the position of the preferred response, the text that it was read from, and the
probability that the first shown is the better one; None where there is none."""

NO_REFERENCE = (
    "its prompt has no reference",
    "Add one to the file of references, or leave the prompt out.",
)


class AskedModel(Protocol):
    """A language model that answers requests: `Endpoint`, or `LocalModel` in process."""

    @property
    def settings(self) -> EndpointSettings: ...

    @property
    def model(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def usage(self) -> Usage: ...

    def complete(self, requests: Sequence[ChatRequest]) -> list[CachedAnswer | Refusal]: ...

    def cached(self, request: ChatRequest) -> CachedAnswer | None: ...


class AiJudge:
    """A language model as a judge. `usage` reports its cost and the distribution of its verdicts.

    With `references`, which hold a right answer to each prompt by its `reference_key`, a pair whose
    prompt has none gets no verdict. With a `tie_margin` it is read by the probabilities of its
    letters: a tie is what is no further from one half.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        model: str,
        *,
        endpoint: AskedModel | None = None,
        references: Mapping[str, str] | None = None,
        tie_margin: float | None = None,
    ) -> None:
        """Raises SettingsError where the key is not set or the principles can't be read."""
        self.endpoint: AskedModel = Endpoint(settings, model) if endpoint is None else endpoint
        self.rubric = format_rubric(settings)
        self.attempts = settings.attempts
        self.references = references
        self.tie_margin = tie_margin
        self.counts = VerdictCounts()

    def for_criterion(self, question: str) -> AiJudge:
        """The same judge asked another question; its calls and tokens count together."""
        settings = self.endpoint.settings.model_copy(update={"criterion": question})
        return AiJudge(
            settings,
            self.endpoint.model,
            endpoint=self.endpoint,
            references=self.references,
            tie_margin=self.tie_margin,
        )

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
        pairs = [make_pairs(one_prompt) for one_prompt in candidates]
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
        requests = [[replace(r, repeat=repeat) for r in self.pair_requests(p)] for p in pairs]
        given = self._pair_answers([request for of_pair in requests for request in of_pair])
        answers = iter(given)
        results = []
        for pair, of_pair in zip(pairs, requests, strict=True):
            if not of_pair:
                no_verdict: Any = None if are_equal(pair) else NoVerdict(*NO_REFERENCE)
                results.append(BothOrders(no_verdict, no_verdict))
                continue
            (forward, text, first), (backward, swapped, second) = next(answers), next(answers)
            backward = 1 - backward if isinstance(backward, int) else backward
            both = BothOrders(forward, backward, (text, swapped), (first, second))
            self._count(both)
            results.append(both)
        return results

    def pair_requests(self, pair: Candidates) -> list[ChatRequest]:
        """The requests on a pair, in both orders; none for two equal texts, and none where its
        prompt has no reference."""
        reference = None
        if self.references is not None:
            reference = find_reference(self.references, pair.prompt)
            if reference is None:
                return []
        if are_equal(pair):
            return []
        return [self.request(order, reference) for order in (pair, swap(pair))]

    def request(
        self, pair: Candidates, reference: str | None, *, rubric: str | None = None
    ) -> ChatRequest:
        """The request on a pair in its order; `rubric` instead of the judge's own."""
        form = pair_request if self.tie_margin is None else letter_request
        chosen = self.rubric if rubric is None else rubric
        return form(chosen, pair.prompt, pair.answers, pair.finished, reference)

    def unanswered(self, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
        """Of requests on pairs, those that would be sent now: the first attempt of each that the
        cache has no answer to. An answer that can't be read is followed by further attempts, which
        are not counted here unless the cache knows it."""
        unsent = []
        for request in requests:
            for attempt in range(self.attempts if self.tie_margin is None else 1):
                tried = retry_request(request, attempt)
                cached = self.endpoint.cached(tried)
                if cached is None:
                    unsent.append(tried)
                    break
                if cached.withheld is not None or _can_be_read(cached):
                    break
        return unsent

    def _pair_answers(self, requests: Sequence[ChatRequest]) -> list[PairAnswer]:
        """The verdict on each request by the position shown, with the text that it was read from
        and the probability of the first, where the judge gives one."""
        if self.tie_margin is None:
            answers = self._request_answers(requests, "verdict", PAIR_VERDICTS)
            return [(verdict, text, None) for verdict, text in answers]
        read: list[PairAnswer] = []
        for answer in self.endpoint.complete(requests):
            if isinstance(answer, Refusal):
                read.append((NoVerdict(answer.reason, answer.advice), None, None))
                continue
            probability = read_letters(answer.text)
            assert probability is not None  # `LocalModel` writes what is read here
            verdict = preferred(probability, self.tie_margin)
            read.append((verdict, answer.text, probability))
        missing = [verdict for verdict, _, _ in read if isinstance(verdict, NoVerdict)]
        self._report_missing(missing, len(read))
        return read

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
        self._report_missing(missing, len(results))
        return list(zip(results, texts, strict=True))

    def _report_missing(self, missing: Sequence[NoVerdict], requests: int) -> None:
        self.counts.missing += len(missing)
        if missing:
            log.warning(
                "The judge %s gave no verdict on %d of %d requests. Of the first: %s.",
                self.endpoint.model,
                len(missing),
                requests,
                missing[0].reason,
            )

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


def _can_be_read(answer: CachedAnswer) -> bool:
    return not answer.cut and parse_verdict(answer.text, "verdict", PAIR_VERDICTS) is not None


def _preferred(both: BothOrders) -> Preferred:
    """The verdict in the first order; None where there is none."""
    return None if isinstance(both.forward, NoVerdict) else both.forward
