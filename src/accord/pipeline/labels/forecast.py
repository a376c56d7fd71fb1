"""What labelling will take: calls, tokens and money, before anything is asked."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from accord.compare.judges.endpoint import ChatRequest
from accord.pipeline.labels.pairs import PairSource
from accord.pipeline.labels.panel import Asked, Member, votes_by_question
from accord.pipeline.progress import Progress
from accord.settings.judge import JudgeSettings

CHARACTERS = 4  # per token, before an answer has been measured
ANSWER_TOKENS = 100  # of an answer that gives a reason in two sentences, before one was measured
MEASURED = 200  # answers that are enough to know what one takes


@dataclass
class JudgeForecast:
    """What one judge will be asked.

    Of its `questions` some have a verdict in the store, and some no reference. `calls` of the
    others have no answer in the cache, and `characters` are those of their requests. `measured`
    are answers in the cache whose tokens are known, with the characters and tokens of their
    requests and their own tokens. A call is repeated where its answer can't be read, which is not
    foreseen.
    """

    name: str
    settings: JudgeSettings
    questions: int = 0
    stored: int = 0
    cached: int = 0
    calls: int = 0
    characters: int = 0
    no_reference: int = 0
    measured: int = 0
    measured_characters: int = 0
    measured_prompt: int = 0
    measured_answer: int = 0

    @property
    def to_ask(self) -> int:
        """Questions without a verdict in the store."""
        return self.questions - self.stored - self.no_reference

    @property
    def prompt_tokens(self) -> float:
        """Tokens of the calls' prompts, by the ratio that was measured."""
        if not self.measured_prompt:
            return self.characters / CHARACTERS
        return self.characters * self.measured_prompt / self.measured_characters

    @property
    def answer_tokens(self) -> float:
        """Tokens of their answers, by the mean that was measured."""
        if not self.measured:
            return float(self.calls * min(ANSWER_TOKENS, self.settings.answer_tokens))
        return self.calls * self.measured_answer / self.measured

    @property
    def cost(self) -> float | None:
        """Their cost without the server's cache of prefixes; None without prices."""
        prices = self.settings.price_per_million
        return None if prices is None else prices.cost(self.prompt_tokens, 0, self.answer_tokens)

    def add(self, asked: Asked, requests: Sequence[ChatRequest]) -> None:
        """Count the requests on one question."""
        for request in requests:
            calls = asked.ai.unanswered([request])
            self.calls += len(calls)
            self.characters += sum(len(call.text) for call in calls)
            self.cached += not calls
            self.measure(asked, request)

    def subtract(self, asked: Asked, requests: Sequence[ChatRequest]) -> None:
        """Leave out requests that are about to be sent."""
        calls = asked.ai.unanswered(requests)
        self.calls -= len(calls)
        self.characters -= sum(len(call.text) for call in calls)

    def measure(self, asked: Asked, request: ChatRequest) -> None:
        """Learn from the cached answer to a request what one takes, where it has token counts."""
        if self.measured >= MEASURED:
            return
        answer = asked.ai.endpoint.cached(request)
        if answer is None or answer.prompt_tokens is None or answer.answer_tokens is None:
            return
        self.measured += 1
        self.measured_characters += len(request.text)
        self.measured_prompt += answer.prompt_tokens
        self.measured_answer += answer.answer_tokens


@dataclass
class Forecast:
    """What all judges will be asked about `pairs`, by `criteria` criteria one by one."""

    pairs: int = 0
    criteria: int = 1
    judges: list[JudgeForecast] = field(default_factory=list)

    @property
    def to_ask(self) -> int:
        return sum(judge.to_ask for judge in self.judges)

    @property
    def calls(self) -> int:
        return sum(judge.calls for judge in self.judges)

    def to_json(self) -> dict[str, Any]:
        """All numbers, by judge."""
        judges = [
            {
                "name": judge.name,
                "questions": judge.questions,
                "stored": judge.stored,
                "cached": judge.cached,
                "no_reference": judge.no_reference,
                "calls": judge.calls,
                "prompt_tokens": judge.prompt_tokens,
                "answer_tokens": judge.answer_tokens,
                "measured": judge.measured,
                "cost": judge.cost,
            }
            for judge in self.judges
        ]
        return {"pairs": self.pairs, "criteria": self.criteria, "judges": judges}


def forecast(source: PairSource, panel: Sequence[Member]) -> Generator[Progress, None, Forecast]:
    """Read all pairs and count what is to be asked; returns the forecast."""
    result = Forecast(
        criteria=len(panel[0].asked),
        judges=[JudgeForecast(m.name, m.settings) for m in panel],
    )
    for batch in source.batches():
        votes = votes_by_question(source.votes(batch))
        result.pairs += len(batch)
        for member, judge in zip(panel, result.judges, strict=True):
            for asked in member.asked:
                for pair in batch:
                    judge.questions += 1
                    if asked.has_judged(pair, votes):
                        judge.stored += 1
                        if judge.measured < MEASURED:
                            for request in asked.requests(pair):
                                judge.measure(asked, request)
                    elif not asked.applies(pair):
                        judge.no_reference += 1
                    else:
                        judge.add(asked, asked.requests(pair))
        yield Progress(0, 0, f"counting: {result.pairs:,} pairs")
    return result
