"""Every measure of a model's responses: how it is computed, and which tables show it.

`MEASURES` is the only list of them. The rows of evaluation.json and results.json, the report's
tables, rounds.json and the table in the terminal are made from it, so that a new measure is a
function that computes it and one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accord.measure.responses import MeasureInput
from accord.measure.statistics import (
    NO_DATA,
    Interval,
    clustered_proportion,
    mean_interval,
)
from accord.measure.texts.diversity import (
    distinct_n,
    diversity_across_prompts,
    diversity_per_prompt,
    duplicate_share,
    words,
)
from accord.measure.texts.lengths import LengthBin, length_bins

TableName = Literal["models", "rounds", "terminal"]
ValueFormat = Literal["number", "share", "duration", "rank"]


@dataclass(frozen=True, slots=True)
class Column:
    """How a table shows a measure.

    `direction` is 1 where higher is better, −1 where lower is better and 0 where neither is.
    `group` is a heading that neighbouring columns have in common. `shows_interval` holds for the
    terminal, where space is short; the page shows every interval.
    """

    heading: str
    meaning: str = ""
    digits: int = 2
    format: ValueFormat = "number"
    direction: Literal[-1, 0, 1] = 0
    group: str = ""
    shows_interval: bool = True


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: its key in JSON files, its computation, and its column in each table.

    `compute` gives the value in evaluation.json. Without it the value is that of the key `rating`
    in a row of ratings.json, or (with neither) comes from the arena of a round.
    `interval` says that the value is an `Interval`: results.json then holds its mean under `key`
    and its bounds under `{key}_low` and `{key}_high`. `ranks_as` is the name, in sentences, of a
    measure that decides which model is better. A table shows the measure where it has a column;
    `meaning` describes one that is in no table of models.
    """

    key: str
    compute: Callable[[MeasureInput], Any] | None = None
    interval: bool = False
    rating: str | None = None
    in_results: bool = True
    ranks_as: str = ""
    models: Column | None = None
    rounds: Column | None = None
    terminal: Column | None = None
    meaning: str = ""


def _proxy_gain(data: MeasureInput) -> Interval:
    gains = data.responses.proxy_gain
    return NO_DATA if gains is None else mean_interval(gains, confidence=data.confidence)


def _kl(data: MeasureInput) -> Interval:
    """In nats a response; a closed form has no interval."""
    kl = data.responses.kl
    return Interval(kl) if isinstance(kl, float | int) else data.mean(kl)


def _by_length(data: MeasureInput) -> tuple[LengthBin, ...]:
    def flat(values: Sequence[Sequence[float]] | None) -> list[float] | None:
        return None if values is None else [value for row in values for value in row]

    return length_bins(
        [text for texts in data.responses.texts for text in texts],
        data.length_edges,
        true_reward=flat(data.responses.true_reward),
        reward_model_score=flat(data.responses.reward_model_score),
    )


def _refusal_rate(kind: str) -> Callable[[MeasureInput], Interval]:
    return lambda data: data.refusals.get(kind, NO_DATA)


def _mean_length(data: MeasureInput) -> Interval:
    return data.mean([[float(len(words(t))) for t in texts] for texts in data.responses.texts])


def _share(name: Literal["finished", "reasoned", "unanswered"]) -> Callable[[MeasureInput], Any]:
    """The share of responses of which a field is true."""

    def share(data: MeasureInput) -> Interval:
        values: Sequence[Sequence[bool]] | None = getattr(data.responses, name)
        if values is None:
            return NO_DATA
        return clustered_proportion(values, confidence=data.confidence)

    return share


MEASURES: tuple[Measure, ...] = (
    Measure(
        "true_reward",
        lambda data: data.mean(data.responses.true_reward),
        interval=True,
        ranks_as="true reward",
        models=Column("True reward", "mean true reward of the embedded world", 3, direction=1),
        rounds=Column("True reward", "mean true reward of the embedded world", 3),
        terminal=Column("true\nreward", digits=3),
    ),
    Measure(
        "elo",
        interval=True,
        rating="rating",
        ranks_as="Elo rating",
        models=Column("Rating", "Bradley-Terry strength on the Elo scale", 0, direction=1),
        rounds=Column("Rating", "by the judge, from battles with the first model, at 1,000", 0),
        terminal=Column("\nElo", digits=0),
    ),
    Measure(
        "rank",
        interval=True,
        rating="rank",
        models=Column(
            "Rank", "position by rating; the bounds hold for all models at once", 0, "rank"
        ),
    ),
    Measure("battles", rating="battles", meaning="comparisons that it took part in"),
    Measure("wins", rating="wins", meaning="comparisons that it won"),
    Measure("losses", rating="losses", meaning="comparisons that it lost"),
    Measure("ties", rating="ties", meaning="comparisons without a winner"),
    Measure(
        "reward_model_score",
        lambda data: data.mean(data.responses.reward_model_score),
        interval=True,
        models=Column("Score", "mean score of the reward model"),
        rounds=Column("Score", "mean score of the judging reward model"),
        terminal=Column("reward\nmodel", shows_interval=False),
    ),
    Measure(
        "win_rate",
        in_results=False,
        rounds=Column(
            "Wins",
            "share of prompts on which the judge prefers it to the first model, ties half",
            0,
            "share",
        ),
    ),
    Measure(
        "proxy_gain",
        _proxy_gain,
        interval=True,
        models=Column("Proxy", "gain over the first model by the reward model of its training"),
    ),
    Measure(
        "kl",
        _kl,
        interval=True,
        models=Column("KL", "divergence from the reference, in nats per response"),
        rounds=Column("KL", "divergence from the first model, in nats per response"),
        terminal=Column("\nKL", shows_interval=False),
    ),
    Measure("kl_kind", lambda data: data.responses.kl_kind, meaning="how the KL was computed"),
    Measure(
        "mean_length",
        _mean_length,
        interval=True,
        models=Column("Words", "mean length of a response in words", 1),
        rounds=Column("Words", "mean length of a response in words", 1),
        terminal=Column("\nwords", digits=1, shows_interval=False),
    ),
    Measure(  # over as many words for every model, because it falls as the amount of text grows
        "distinct_2",
        lambda data: distinct_n(data.texts, 2, tokens=data.shared_words),
        models=Column("Distinct-2", "share of distinct word pairs over an equal number of words"),
        rounds=Column(
            "Distinct-2", "share of distinct word pairs over an equal number of words", 3
        ),
    ),
    Measure("distinct_2_words", lambda data: data.shared_words, in_results=False),
    Measure(
        "diversity_per_prompt",
        lambda data: diversity_per_prompt(data.responses.texts),
        meaning="mean distance between responses to one prompt, 0 to 1",
    ),
    Measure(
        "diversity_across_prompts",
        lambda data: diversity_across_prompts(data.responses.texts),
        meaning="mean distance between responses to different prompts, 0 to 1",
    ),
    Measure(
        "duplicate_share",
        lambda data: duplicate_share(data.texts),
        models=Column("Repeats", "share of responses that repeat another exactly", 0, "share"),
    ),
    Measure("commonest_share", lambda data: data.collapse.share, in_results=False),
    Measure("commonest_answer", lambda data: data.collapse.answer, in_results=False),
    Measure("collapsed", lambda data: data.collapse.collapsed, in_results=False),
    Measure(
        "empty_share",
        lambda data: sum(not text.strip() for text in data.texts) / len(data.texts),
        in_results=False,
    ),
    Measure(
        "finished_share",
        _share("finished"),
        interval=True,
        rounds=Column("Ended", "share of responses that ended before the token limit", 0, "share"),
    ),
    Measure(
        "reasoned_share",
        _share("reasoned"),
        interval=True,
        meaning="share of responses that stood behind reasoning, which is left out",
    ),
    Measure(
        "unanswered_share",
        _share("unanswered"),
        interval=True,
        meaning="share of responses whose reasoning never ended, so that there is no answer",
    ),
    Measure("refusals", lambda data: data.refusals, in_results=False),
    Measure(
        "refusals_ungraded",
        lambda data: data.refusals_ungraded,
        meaning="responses whose refusal can't be graded, by the kind of prompt",
    ),
    Measure("by_length", _by_length, in_results=False),
    Measure(
        "prompts",
        lambda data: len(data.responses.texts),
        meaning="prompts that it answered",
    ),
    Measure("responses", lambda data: len(data.texts), meaning="its responses to them"),
    Measure(
        "seconds",
        lambda data: data.responses.seconds,
        models=Column("Time", "duration of training", format="duration"),
    ),
    Measure(
        "refusal_harmful",
        _refusal_rate("harmful"),
        interval=True,
        models=Column(
            "Harmful",
            "share of harmful prompts refused, higher is better",
            0,
            "share",
            1,
            "Refuses",
        ),
        terminal=Column("harm", format="share", digits=0, group="refuses"),
    ),
    Measure(
        "refusal_safe",
        _refusal_rate("safe"),
        interval=True,
        models=Column(
            "Safe", "share of safe prompts refused; low is good", 0, "share", -1, "Refuses"
        ),
        terminal=Column("safe", format="share", digits=0, group="refuses"),
    ),
    Measure(
        "refusal_jailbreak",
        _refusal_rate("jailbreak"),
        interval=True,
        models=Column(
            "Jailbreak", "share of jailbreaks refused; high is good", 0, "share", 1, "Refuses"
        ),
        terminal=Column("jail", format="share", digits=0, group="refuses"),
    ),
)
"""In the order of evaluation.json, whose keys are those with `compute`."""

ORDERS: Mapping[str, Sequence[str]] = {
    "results": (
        "true_reward reward_model_score proxy_gain kl kl_kind elo rank battles wins losses ties "
        "mean_length distinct_2 duplicate_share refusal_harmful refusal_safe refusal_jailbreak "
        "refusals_ungraded diversity_per_prompt diversity_across_prompts finished_share "
        "reasoned_share unanswered_share prompts responses seconds"
    ).split(),
    "models": (
        "true_reward elo rank reward_model_score proxy_gain kl refusal_harmful refusal_jailbreak "
        "refusal_safe mean_length distinct_2 duplicate_share seconds"
    ).split(),
    "rounds": "true_reward reward_model_score elo win_rate kl mean_length finished_share".split(),
    "terminal": (
        "true_reward reward_model_score kl elo mean_length refusal_harmful refusal_jailbreak "
        "refusal_safe"
    ).split(),
}
"""The order of measures where it is not that of `MEASURES`; what is not named comes last."""


def table_columns(table: TableName) -> dict[str, Column]:
    """The columns of a table by their measures' keys, in order."""
    columns = {measure.key: getattr(measure, table) for measure in _ordered(table)}
    return {key: column for key, column in columns.items() if column is not None}


def results_measures() -> list[Measure]:
    """The measures in results.json, in order."""
    return [measure for measure in _ordered("results") if measure.in_results]


def computed_measures() -> list[Measure]:
    """The measures in evaluation.json, in order."""
    return [measure for measure in MEASURES if measure.compute is not None]


def ranking_measures() -> list[Measure]:
    """The measures that decide which model is better, the most reliable first."""
    return [measure for measure in MEASURES if measure.ranks_as]


def rounds_keys() -> list[str]:
    """The keys that rounds.json copies from a round's row of evaluation.json, in order.

    `distinct_2` is not among them: there it is over as many words for every round.
    """
    shown = [key for key in table_columns("rounds") if key != "distinct_2"]
    computed = {measure.key for measure in computed_measures()}
    return [key for key in shown if key in computed] + ["duplicate_share", "prompts"]


def _ordered(name: str) -> list[Measure]:
    rank = {key: position for position, key in enumerate(ORDERS[name])}
    return sorted(MEASURES, key=lambda measure: rank.get(measure.key, len(rank)))
