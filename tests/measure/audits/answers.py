"""Responses for tests of audits: a model before and after, with scores by a rule of the test."""

from collections.abc import Callable, Sequence

from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.responses import ModelResponses, Nested

Score = Callable[[str], float]


def responses(
    model: str, texts: Sequence[Sequence[str]], kinds: Sequence[str | None] | None = None
) -> ModelResponses:
    return ModelResponses(model, texts, kinds or [None] * len(texts))


def scores(texts: Sequence[Sequence[str]], score: Score) -> Nested:
    return [[score(text) for text in row] for row in texts]


def before_and_after(
    before: Sequence[Sequence[str]],
    after: Sequence[Sequence[str]],
    *,
    proxy: Score | None = None,
    independent: Score | None = None,
    kinds: Sequence[str | None] | None = None,
) -> BeforeAndAfter:
    """Both models' texts, of the shape [prompts][responses], scored by the given rules."""

    def by(score: Score | None, texts: Sequence[Sequence[str]]) -> Nested | None:
        return None if score is None else scores(texts, score)

    return BeforeAndAfter(
        [f"Question {i}" for i in range(len(before))],
        responses("sft", before, kinds),
        responses("ppo", after, kinds),
        proxy_before=by(proxy, before),
        proxy_after=by(proxy, after),
        independent_before=by(independent, before),
        independent_after=by(independent, after),
    )
