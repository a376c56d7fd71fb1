"""What results.json has of the ratings beyond a model's row, with its types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from typing_extensions import TypedDict  # pydantic checks no other before Python 3.12

from accord.report.tables.rounds import rounds_columns, value_with_bounds


class IntervalJson(TypedDict):
    """A mean with the bounds of its interval."""

    mean: Annotated[float, "The mean."]
    low: Annotated[float | None, "The lower bound."]
    high: Annotated[float | None, "The upper bound."]


class LengthControlledJson(TypedDict):
    """A model's win rate over the baseline, as it is and at equal length."""

    model: Annotated[str, "The model."]
    baseline: Annotated[str, "The model that it is compared with."]
    battles: Annotated[int, "Battles between the two."]
    raw: Annotated[float, "The share of battles won, ties half."]
    rate: Annotated[IntervalJson | None, "The same if both answers were equally long."]
    length_effect: Annotated[
        float | None, "The weight of length in the logit of winning; null where lengths are equal."
    ]
    note: Annotated[str, "Why it is not controlled; else empty."]


class StyleEffectJson(TypedDict):
    """What a style is worth."""

    name: Annotated[str, "length, headers, lists or bold."]
    elo: Annotated[float, "Points for a standard deviation more of it than the other answer."]
    low: Annotated[float, "The lower bound."]
    high: Annotated[float, "The upper bound."]
    odds_ratio: Annotated[float, "The factor on the odds of winning."]


class StyleRatingJson(TypedDict):
    """A model's rating at equal style."""

    model: Annotated[str, "The model."]
    rating: Annotated[float, "The rating."]
    low: Annotated[float, "The lower bound."]
    high: Annotated[float, "The upper bound."]
    change: Annotated[float, "By how much it differs from the plain rating."]


class StyleJson(TypedDict):
    """Ratings at equal style; empty lists where none was asked for."""

    effects: Annotated[list[StyleEffectJson], "What each style is worth."]
    models: Annotated[list[StyleRatingJson], "The models, best first."]


class CategoryRatingJson(TypedDict):
    """A model's rating in a category."""

    model: Annotated[str, "The model."]
    rating: Annotated[float, "The rating, drawn toward the overall one."]
    low: Annotated[float, "The lower bound."]
    high: Annotated[float, "The upper bound."]
    battles: Annotated[int, "Its battles in the category."]
    weight: Annotated[float, "The share of its own battles, not the overall rating, in the rating."]


class CategoryJson(TypedDict):
    """A category."""

    category: Annotated[str, "Its name."]
    battles: Annotated[int, "Battles in it."]
    models: Annotated[list[CategoryRatingJson], "The models, best first."]
    note: Annotated[str, "Which models have few battles in it; else empty."]


class MomentJson(TypedDict):
    """A rated checkpoint or round."""

    model: Annotated[str, "Its full name."]
    number: Annotated[int, "Its step or round."]
    rating: Annotated[float, "The rating."]
    low: Annotated[float | None, "The lower bound."]
    high: Annotated[float | None, "The upper bound."]


class RatedRunJson(TypedDict):
    """The rated checkpoints or rounds of one run."""

    run: Annotated[str, "The run; empty where the names have none, as `round-3`."]
    unit: Annotated[str, "step or round."]
    moments: Annotated[list[MomentJson], "In their order."]


class UnclearPairJson(TypedDict):
    """Two models whose order is not certain."""

    better: Annotated[str, "The higher rated."]
    worse: Annotated[str, "The other."]
    elo_difference: Annotated[float, "By how many points."]
    more_battles: Annotated[
        int | None, "Battles between the two that would show their order; null where none would."
    ]


class NextPairJson(TypedDict):
    """A battle to hold next."""

    a: Annotated[str, "A model."]
    b: Annotated[str, "The other."]
    variance_removed: Annotated[
        float | None,
        "The share of the ratings' variance that one battle removes; null where it joins models "
        "without a common scale.",
    ]


class ComparisonJson(TypedDict):
    """Two models on the prompts that both answered."""

    a: Annotated[str, "A model."]
    b: Annotated[str, "The other."]
    battles: Annotated[int, "Battles between the two."]
    prompts: Annotated[int, "Prompts of these."]
    rate: Annotated[IntervalJson | None, "The share won by `a`, ties half."]
    rate_first: Annotated[IntervalJson | None, "The same where `a` was shown first."]
    rate_second: Annotated[IntervalJson | None, "The same where `a` was shown second."]
    prompts_won: Annotated[int, "Prompts on which `a` scored more than half."]
    prompts_lost: Annotated[int, "Prompts on which `a` scored less than half."]
    sign_p: Annotated[float, "Exact test that both are as likely."]
    permutation_p: Annotated[float, "Exact test of the sum of scores."]
    holm_p: Annotated[float, "The same, corrected for all pairs of models."]


class RatingsJson(TypedDict):
    """What the battles say beyond the ratings in `models`. [ratings.md](ratings.md) has the
    methods."""

    anchor: Annotated[str | None, "The model fixed at 1000; null where a mean is."]
    ties: Annotated[str, "The rule for ties: half, rao-kupper or davidson."]
    comparisons: Annotated[list[ComparisonJson], "Each two models that met."]
    length_controlled: Annotated[list[LengthControlledJson], "Win rates at equal length."]
    style: Annotated[StyleJson, "Ratings at equal style."]
    categories: Annotated[list[CategoryJson], "Ratings by category."]
    category_spread: Annotated[float | None, "How far ratings differ by category, in points."]
    runs: Annotated[list[RatedRunJson], "Ratings over checkpoints and rounds."]
    not_distinguished: Annotated[list[UnclearPairJson], "Of these pairs, at most 200 are listed."]
    not_distinguished_pairs: Annotated[int, "How many pairs there are."]
    next_pairs: Annotated[list[NextPairJson], "The battles that would say most."]
    position: Annotated[
        IntervalJson | None, "How often the first of two equally strong models wins."
    ]


class RoundJson(TypedDict):
    """A round's model."""

    round: Annotated[int, "Its number; 0 is the model before training."]
    measures: Annotated[
        dict[str, IntervalJson | None],
        "Its measures by name, as in the table of rounds; `elo` is its rating.",
    ]


class RoundsJson(TypedDict):
    """The rounds of one `iterate` stage."""

    stage: Annotated[str, "The stage."]
    rated: Annotated[bool, "Whether an arena rated the rounds."]
    rounds: Annotated[list[RoundJson], "In their order."]


def rating_results(ratings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The key `ratings` of results.json: parts that the battles, or an earlier version, do not give
    are empty or null."""
    if ratings is None:
        return None
    lists = ("comparisons", "length_controlled", "categories", "runs", "next_pairs")
    unclear = ratings.get("not_distinguished") or []
    style = ratings.get("style") or {}
    return {
        "anchor": ratings.get("anchor"),
        "ties": ratings.get("ties") or "half",
        **{key: ratings.get(key) or [] for key in lists},
        "style": {key: style.get(key) or [] for key in ("effects", "models")},
        "category_spread": ratings.get("category_spread"),
        "not_distinguished": unclear,
        "not_distinguished_pairs": ratings.get("not_distinguished_pairs", len(unclear)),
        "position": ratings.get("position"),
    }


def round_results(rounds: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The key `rounds` of results.json, from the content of each rounds.json by stage."""
    return [_stage_rounds(name, lineage["rounds"]) for name, lineage in rounds.items()]


def _stage_rounds(name: str, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    columns = rounds_columns(rows)
    return {
        "stage": name,
        "rated": "elo" in columns,
        "rounds": [
            {"round": row["round"], "measures": {key: _interval(row, key) for key in columns}}
            for row in rows
        ],
    }


def _interval(row: Mapping[str, Any], key: str) -> dict[str, float | None] | None:
    mean, low, high = value_with_bounds(row, key)
    return None if mean is None else {"mean": mean, "low": low, "high": high}
