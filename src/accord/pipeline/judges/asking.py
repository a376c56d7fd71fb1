"""Judges of every kind, asked about a pair in both orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from accord.compare.judges.build import build_ai_judge, judge_name
from accord.compare.judges.identity import judge_fingerprint
from accord.compare.judges.questions import (
    BothOrders,
    Candidates,
    NoVerdict,
    Preferred,
    Ranks,
    swap,
)
from accord.compare.store.fingerprint import JudgeFingerprint
from accord.errors import DataError, SettingsError
from accord.pipeline.stages.judges import Judge, build_judge
from accord.records import Outcome, Prompt
from accord.runs.digests import digest_path
from accord.settings.judge import LANGUAGE_MODELS, JudgeSettings

JudgeFunction = Callable[[Prompt, str, str], Outcome]
"""A judge in Python: the prompt and two responses to "a", "b", "tie" or "both_bad"."""

PREFERRED: dict[str, Preferred] = {"a": 0, "b": 1, "tie": None, "both_bad": None}


class Ask(Protocol):
    """The verdicts on pairs in both orders; `repeat` asks the same again."""

    def __call__(self, pairs: Sequence[Candidates], *, repeat: int = 0) -> list[BothOrders]: ...


@dataclass(frozen=True, slots=True)
class AskedJudge:
    """A judge with its name, the model that it is (None for one in Python), and its fingerprint
    (None where nothing says what it is)."""

    name: str
    ask: Ask
    model: str | None = None
    fingerprint: JudgeFingerprint | None = None
    usage: Callable[[], Mapping[str, int]] | None = None


def make_asked_judge(judge: JudgeSettings | JudgeFunction) -> AskedJudge:
    """The judge that settings describe, or a function. Raises SettingsError for the embedded
    world's annotators, who have no one to be measured against."""
    if not isinstance(judge, JudgeSettings):
        name = getattr(judge, "__name__", type(judge).__name__)
        return AskedJudge(name, _ask_function(judge))
    if judge.kind == "world":
        raise SettingsError(
            "The embedded world's annotators are simulated, and are not measured against people. "
            "Set `kind=endpoint` with `base_url` and `model`, or `kind=reward_model` with `model`."
        )
    if judge.kind in LANGUAGE_MODELS:
        ai = build_ai_judge(judge)
        name = judge_name(judge)
        return AskedJudge(name, ai.both_orders, judge.model, judge_fingerprint(ai), ai.usage)
    built = build_judge(judge)
    assert judge.model is not None  # build_judge checks this
    content = digest_path(judge.model)
    fingerprint = JudgeFingerprint(judge.model, "reward model", content, "")
    return AskedJudge(built.name, _ask_by_ranks(built.judge), judge.model, fingerprint)


def _ask_by_ranks(judge: Judge) -> Ask:
    """Asks a judge that ranks: once for each order."""

    def ask(pairs: Sequence[Candidates], *, repeat: int = 0) -> list[BothOrders]:
        orders = [order for pair in pairs for order in (pair, swap(pair))]
        verdicts = [_preferred(ranks) for ranks in judge(orders)]
        return [
            BothOrders(verdicts[2 * i], _swapped(verdicts[2 * i + 1])) for i in range(len(pairs))
        ]

    return ask


def _ask_function(judge: JudgeFunction) -> Ask:
    def verdict(pair: Candidates) -> Preferred:
        outcome: Any = judge(pair.prompt, *pair.responses)
        if outcome not in PREFERRED:
            raise DataError(
                f"The judge returned {outcome!r}. It must return 'a', 'b', 'tie' or 'both_bad'."
            )
        return PREFERRED[outcome]

    def ask(pairs: Sequence[Candidates], *, repeat: int = 0) -> list[BothOrders]:
        return [BothOrders(verdict(pair), _swapped(verdict(swap(pair)))) for pair in pairs]

    return ask


def _preferred(ranks: Ranks | NoVerdict) -> Preferred | NoVerdict:
    if isinstance(ranks, NoVerdict):
        return ranks
    first, second = ranks
    return None if first == second else 0 if first < second else 1


def _swapped(verdict: Preferred | NoVerdict) -> Preferred | NoVerdict:
    """The verdict on a swapped pair, by the indices of the pair itself."""
    return 1 - verdict if isinstance(verdict, int) else verdict
