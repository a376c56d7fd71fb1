"""Findings from the battles: leads that length explains, and models not distinguished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accord.report.findings.finding import Finding
from accord.report.formatting import format_percent, visible


def rating_findings(ratings: Mapping[str, Any] | None) -> list[Finding]:
    """Findings from the key `ratings` of results.json."""
    if not ratings:
        return []
    return [*_won_by_length(ratings), *_not_distinguished(ratings)]


def _won_by_length(ratings: Mapping[str, Any]) -> list[Finding]:
    """Models that surely beat the baseline, but not surely at equal length."""
    results = []
    for row in ratings["length_controlled"]:
        rate, low = row["rate"], _sure_low(ratings, row["model"], row["baseline"])
        if rate is None or rate["low"] is None or low is None:
            continue
        if low > 0.5 >= rate["low"] and not row["note"]:
            model, baseline = visible(row["model"]), visible(row["baseline"])
            bounds = f"{format_percent(rate['low'])} to {format_percent(rate['high'])}"
            text = (
                f"{model} beats {baseline} in {format_percent(row['raw'])} of their battles, but "
                f"at equal length in {format_percent(rate['mean'])} ({bounds}): its lead may be "
                "its length."
            )
            results.append(Finding("warning", text))
    return results


def _sure_low(ratings: Mapping[str, Any], model: str, baseline: str) -> float | None:
    """The lower bound of the rate at which the model beats the baseline."""
    for row in ratings["comparisons"]:
        rate = row["rate"]
        if rate is None or {row["a"], row["b"]} != {model, baseline}:
            continue
        if row["a"] == model:
            return None if rate["low"] is None else float(rate["low"])
        return None if rate["high"] is None else 1 - float(rate["high"])
    return None


def _not_distinguished(ratings: Mapping[str, Any]) -> list[Finding]:
    pairs = ratings["not_distinguished"]
    if not pairs:
        return []
    count = ratings["not_distinguished_pairs"]
    text = f"The battles do not distinguish {count:,} pair{'s' if count > 1 else ''} of models"
    nearest = pairs[0]
    if nearest["more_battles"] is not None:
        names = f"{visible(nearest['better'])} and {visible(nearest['worse'])}"
        more = nearest["more_battles"]
        text += (
            f"; the fewest more would do between {names}: {more:,} battle{'s' if more > 1 else ''}"
            if count > 1
            else f", {names}: {more:,} more battle{'s' if more > 1 else ''} would"
        )
    return [Finding("note", f"{text}.")]
