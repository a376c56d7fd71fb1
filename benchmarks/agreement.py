"""How long agreement takes: 1,000,000 ratings of three raters an item, with bootstrap intervals."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from machine_report import print_machine

from accord.measure.agreement.alpha import krippendorff_alpha
from accord.measure.agreement.dawid_skene import dawid_skene
from accord.measure.agreement.kappas import cohen_kappa, fleiss_kappa, gwet_ac1
from accord.measure.agreement.ratings import CodedRatings, code_ratings

RATINGS = 999_999
PER_ITEM = 3
ANNOTATORS = 60


def draw_ratings(values: int, raters: int, seed: int = 0) -> CodedRatings:
    """Ratings that give an item's true value with probability 0.7, and else any value."""
    rng = np.random.default_rng(seed)
    items = RATINGS // PER_ITEM
    item = np.repeat(np.arange(items), PER_ITEM)
    slot = np.tile(np.arange(PER_ITEM), items)
    rater = (
        slot if raters == PER_ITEM else rng.integers(0, raters // PER_ITEM, items)[item] * 3 + slot
    )
    truth = rng.integers(0, values, items)[item]
    value = np.where(rng.random(RATINGS) < 0.7, truth, rng.integers(0, values, RATINGS))
    return code_ratings(item, rater, value)


def main() -> None:
    print_machine()
    for values in (3, 10, 1_000_000):
        ratings = draw_ratings(values, PER_ITEM)
        measures: dict[str, Callable[[], object]] = {
            "alpha, nominal": lambda r=ratings: krippendorff_alpha(r, "nominal"),
            "alpha, ordinal": lambda r=ratings: krippendorff_alpha(r, "ordinal"),
            "alpha, interval": lambda r=ratings: krippendorff_alpha(r, "interval"),
            "Fleiss' kappa": lambda r=ratings: fleiss_kappa(r),
            "Gwet's AC1": lambda r=ratings: gwet_ac1(r),
        }
        if values <= 10:
            measures["Cohen's kappa"] = lambda r=ratings: cohen_kappa(r, (0, 1))
            crowd = draw_ratings(values, ANNOTATORS)
            measures["Dawid-Skene"] = lambda r=crowd: dawid_skene(r)
        for name, measure in measures.items():
            start_time = time.perf_counter()
            measure()
            seconds = time.perf_counter() - start_time
            print(f"{RATINGS:,} ratings, up to {values:,} values, {name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
