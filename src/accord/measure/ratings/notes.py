"""Notes that come with ratings: where no finite estimate exists, and what was assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from accord.measure.ratings.bradley_terry import Labels
from accord.measure.ratings.resampling import Units
from accord.measure.statistics import Floats

Bools = NDArray[np.bool_]
MAX_NAMED_GROUPS = 8


def estimate_notes(
    names: Sequence[str],
    scores: Floats,
    labels: Labels,
    anchors: Labels,
    anchor: str | None,
    prior: float,
) -> list[str]:
    """Notes on the prior, and on the groups of models that have no finite rating together."""
    notes = []
    if prior:
        notes.append(
            f"Regularised on request: {prior:g} pseudo-battle(s), half won by each side, were "
            "added to every pair of models; ratings lie closer together than the battles alone say."
        )
    if labels.max() == 0:
        return notes
    groups = range(int(labels.max()) + 1)
    reasons = [_describe_group(names, scores, labels == group) for group in groups]
    if len(reasons) > MAX_NAMED_GROUPS:
        left_out = len(reasons) - MAX_NAMED_GROUPS
        reasons = [*reasons[:MAX_NAMED_GROUPS], f"{left_out} more groups are like these"]
    notes.append("No finite rating fits all models best: " + "; ".join(reasons) + ".")
    if anchor is None:
        mean_of = join_names([names[i] for i in anchors.tolist()])
        notes.append(f"1000 is the mean of {mean_of} alone.")
    notes.append("More battles, or a prior (pseudo-battles), would make every rating finite.")
    return notes


def unit_note(units: Units) -> list[str]:
    """A note on what the intervals take as independent, where that is not the single battles."""
    if not units.clustered:
        return []
    return [
        f"The intervals take the {units.drawn:,} prompts as independent, and not the battles of "
        "one prompt."
    ]


def bootstrap_notes(degenerate: int, rounds: int) -> list[str]:
    """A note on bootstrap rounds without a finite estimate, if there were any."""
    if not degenerate:
        return []
    return [
        f"In {degenerate} of {rounds} bootstrap rounds no finite rating existed for all models, "
        "because some won or lost every battle drawn; an end of an interval that this leaves open "
        "is not given."
    ]


def join_names(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _describe_group(names: Sequence[str], scores: Floats, group: Bools) -> str:
    """How a strongly connected group of models did against the models outside of it."""
    members = join_names([name for name, inside in zip(names, group, strict=True) if inside])
    won = (scores[group] > 0).any(axis=0) & ~group
    lost = (scores[:, group] > 0).any(axis=1) & ~group
    parts = [
        f"{verb} every battle against {join_names(opponents)}"
        for verb, met in (("won", won), ("lost", lost))
        if (opponents := [names[i] for i in np.flatnonzero(met).tolist()])
    ]
    return f"{members} {' and '.join(parts)}" if parts else f"{members} met no other model"
