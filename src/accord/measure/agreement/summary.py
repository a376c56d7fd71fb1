"""All coefficients of agreement of one set of ratings, and of each criterion."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accord.measure.agreement.alpha import Level, krippendorff_alpha
from accord.measure.agreement.coefficients import Coefficient
from accord.measure.agreement.kappas import cohen_kappa, fleiss_kappa, gwet_ac1
from accord.measure.agreement.ratings import CodedRatings, code_ratings

MAX_PAIRS = 45  # pairs of raters (of ten) that are each shown with their kappa


class RatedItem(NamedTuple):
    """A rater's value of an item on one criterion; None where it was skipped."""

    item: Any
    rater: Any
    value: Any
    criterion: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The coefficients of one set of ratings, and Cohen's kappa of each two raters.

    `pairs` is empty where there are more than `MAX_PAIRS` pairs of raters.
    """

    items: int
    raters: int
    ratings: int
    missing: int
    coefficients: tuple[Coefficient, ...]
    pairs: Mapping[tuple[Any, Any], Coefficient]

    def to_json(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "raters": self.raters,
            "ratings": self.ratings,
            "missing": self.missing,
            "coefficients": [c.to_json() for c in self.coefficients],
            "pairs": [{"raters": list(names), **c.to_json()} for names, c in self.pairs.items()],
        }


def measure_agreement(
    ratings: CodedRatings,
    level: Level = "nominal",
    *,
    rounds: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Cohen's, Fleiss' and Krippendorff's coefficients and Gwet's AC1, each with its bootstrap
    interval over items, or the reason why it is not defined.

    Krippendorff's alpha is that of `level`; the kappas and AC1 take values as names.
    """
    options: dict[str, Any] = {"rounds": rounds, "confidence": confidence, "seed": seed}
    coefficients = (
        cohen_kappa(ratings, **options),
        fleiss_kappa(ratings, **options),
        krippendorff_alpha(ratings, level, **options),
        gwet_ac1(ratings, **options),
    )
    names = list(itertools.combinations(ratings.raters, 2))
    pairs = {}
    if 1 < len(names) <= MAX_PAIRS:
        pairs = {two: cohen_kappa(ratings, two, **options) for two in names}
    return Agreement(
        len(ratings.items),
        len(ratings.raters),
        len(ratings),
        ratings.missing,
        coefficients,
        pairs,
    )


def agreement_by_criterion(
    rows: Iterable[RatedItem],
    level: Level = "nominal",
    *,
    categories: Sequence[Any] | None = None,
    rounds: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Agreement]:
    """The agreement on each criterion, in the order in which they first occur.

    Raises DataError as `code_ratings` and `krippendorff_alpha`.
    """
    by_criterion: dict[str, list[RatedItem]] = defaultdict(list)
    for row in rows:
        by_criterion[row.criterion].append(row)
    return {
        criterion: measure_agreement(
            code_ratings(
                [row.item for row in group],
                [row.rater for row in group],
                [row.value for row in group],
                categories=categories,
            ),
            level,
            rounds=rounds,
            confidence=confidence,
            seed=seed,
        )
        for criterion, group in by_criterion.items()
    }
