"""Compare two models' answers by a judge, and rate models by their battles, from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.api.answers import Answers, PromptAnswers
from accord.api.rewards import combine_rewards
from accord.compare.judges.questions import Candidates, NoVerdict
from accord.data.read import read_battles
from accord.errors import DataError
from accord.measure.ratings.rate import Ratings, rate_models
from accord.measure.ratings.tie_models import TieRule
from accord.measure.statistics import Interval, clustered_interval
from accord.pipeline.stages.judges import Judge, build_judge, reward_judge
from accord.records import Battle, Outcome, Prompt
from accord.settings.judge import JudgeSettings
from accord.settings.reading.load import build

JudgeFunction = Callable[[Prompt, str, str], Outcome]
"""A judge in Python: the prompt and two responses to "a", "b", "tie" or "both_bad"."""

WINS = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True, repr=False)
class Battles(Sequence[Battle]):
    """The outcome of every comparison, to be passed to `rate`.

    `win_rate` is model a's, ties counting half, with a 95% interval that takes prompts as
    independent; `undecided` are the comparisons for which the judge gave no verdict.
    """

    rows: tuple[Battle, ...]
    win_rate: Interval
    undecided: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Battle]:
        return iter(self.rows)

    def __repr__(self) -> str:
        a, b = self.rows[0].model_a, self.rows[0].model_b
        rate = self.win_rate
        span = "" if rate.low is None else f" ({rate.low:.2f} to {rate.high:.2f})"
        undecided = f", {self.undecided} undecided" if self.undecided else ""
        return f"Battles({len(self.rows)}: {a} wins {rate.mean:.2f}{span} against {b}{undecided})"


def compare(
    answers_a: Answers,
    answers_b: Answers,
    *,
    judge: Any,
    names: tuple[str, str] | None = None,
) -> Battles:
    """Let a judge compare two models' answers to the same prompts, response by response.

    `judge` is a function of (prompt, response_a, response_b) that returns "a", "b", "tie" or
    "both_bad"; a reward model or its path, whose higher score wins; or a table of settings of an AI
    judge, such as `{"kind": "endpoint", "base_url": …, "model": …}`, which sees both orders.
    Raises DataError where the prompts differ or nothing was decided.
    """
    name_a, name_b = names or (answers_a.model, answers_b.model)
    if name_a == name_b:
        raise DataError(f"Both models are called {name_a!r}. Pass names=('one', 'other').")
    if [row.prompt for row in answers_a] != [row.prompt for row in answers_b]:
        raise DataError("The two models have not answered the same prompts, in the same order.")
    if any(len(a.responses) != len(b.responses) for a, b in zip(answers_a, answers_b, strict=True)):
        raise DataError(
            "One model has more responses to a prompt than the other. Sample both with the same "
            "num_responses: the k-th responses are compared."
        )
    outcomes: list[list[Outcome | None]]
    if _is_judge_function(judge):
        rows = zip(answers_a, answers_b, strict=True)
        outcomes = [_outcomes(judge, row_a, row_b) for row_a, row_b in rows]
    else:
        outcomes = _judged(_judge(judge), answers_a, answers_b)
    decided = [[o for o in row if o is not None] for row in outcomes]
    battles = tuple(Battle(name_a, name_b, o, str(i)) for i, row in enumerate(decided) for o in row)
    if not battles:
        raise DataError("The judge decided none of the comparisons.")
    undecided = sum(o is None for row in outcomes for o in row)
    wins = [[WINS[o] for o in row] for row in decided if row]
    return Battles(battles, clustered_interval(wins), undecided)


def rate(
    battles: Iterable[Any] | str | Path,
    *,
    ties: TieRule = "half",
    anchor: str | None = None,
    bootstrap: int = 200,
    confidence: float = 0.95,
    prior: float = 0.0,
    seed: int = 0,
) -> Ratings:
    """Bradley-Terry ratings on the Elo scale, with intervals.

    A tie is half a win (`ties="half"`), or Rao and Kupper's or Davidson's model of ties is fitted.
    Battles on one prompt count as dependent where all name their prompt (`prompt`, `question_id`).

    `battles` come from `compare` (several may be added up in a list), or are rows with `model_a`,
    `model_b` and `winner`, or a path. Without `anchor` the mean of all models is 1000. Raises
    DataError for no battles or an unknown anchor.
    """
    rows: Any = battles
    is_table = hasattr(battles, "columns") or hasattr(battles, "column_names")
    if not isinstance(battles, str | Path) and not is_table:
        rows = list(_flatten(battles))
    if isinstance(rows, str | Path) or is_table or not all(isinstance(row, Battle) for row in rows):
        rows, _ = read_battles(rows)
    return rate_models(
        rows,
        ties=ties,
        anchor=anchor,
        bootstrap=bootstrap,
        confidence=confidence,
        prior=prior,
        seed=seed,
    )


def _flatten(battles: Iterable[Any]) -> Iterator[Any]:
    for item in battles:
        if isinstance(item, Battles):
            yield from item
        else:
            yield item


def _is_judge_function(judge: Any) -> bool:
    """Whether the judge is a function of a prompt and two responses."""
    return callable(judge) and not hasattr(judge, "config") and not hasattr(judge, "tokenizer")


def _outcomes(
    judge: JudgeFunction, row_a: PromptAnswers, row_b: PromptAnswers
) -> list[Outcome | None]:
    pairs = zip(row_a.whole_responses, row_b.whole_responses, strict=True)
    outcomes: list[Outcome | None] = [judge(row_a.prompt, a, b) for a, b in pairs]
    for outcome in outcomes:
        if outcome not in WINS:
            raise DataError(
                f"The judge returned {outcome!r}. It must return 'a', 'b', 'tie' or 'both_bad'."
            )
    return outcomes


def _judge(judge: Any) -> Judge:
    if isinstance(judge, Mapping):
        return build_judge(build(JudgeSettings, dict(judge), where="accord.compare judge")).judge
    return reward_judge(combine_rewards(judge))


def _judged(judge: Judge, answers_a: Answers, answers_b: Answers) -> list[list[Outcome | None]]:
    questions = [
        Candidates(a.prompt, (text_a, text_b), (end_a, end_b))
        for a, b in zip(answers_a, answers_b, strict=True)
        for text_a, text_b, end_a, end_b in zip(
            a.whole_responses, b.whole_responses, a.finished, b.finished, strict=True
        )
    ]
    verdicts = iter(judge(questions))
    return [[_outcome(next(verdicts)) for _ in row.responses] for row in answers_a]


def _outcome(ranks: tuple[int, ...] | NoVerdict) -> Outcome | None:
    if isinstance(ranks, NoVerdict):
        return None
    first, second = ranks
    return "tie" if first == second else "a" if first < second else "b"
