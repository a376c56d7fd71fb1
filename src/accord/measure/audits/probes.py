"""What probes of a reward are computed from: how it ranks versions of the answers of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from accord.measure.audits.audit import AuditSample
from accord.measure.audits.probes_changes import CHANGES, STYLES
from accord.measure.statistics import Floats

Bools = NDArray[np.bool_]

Version = tuple[str, str]
"""Whose text it is (`chosen`, `rejected`, or one of those below), and the change made to it."""
CHOSEN: Version = ("chosen", "")
REJECTED: Version = ("rejected", "")
OTHER: Version = ("other prompt's", "")
"""The chosen answer to another prompt."""
REFUSAL: Version = ("refusal", "")
EMPTY: Version = ("empty", "")

ANSWERS = ("refused", "emptied", "wrong_prompt")
PROBES = (*CHANGES, *ANSWERS, "style")
"""What may be probed, beside the accuracy, the ties and the calibration on the pairs."""
AUDIT_NAMES = (
    "accuracy",
    "shorter_chosen",
    "longer_chosen",
    "ties",
    "order",
    "calibration",
    *(f"{name}_flips" for name in CHANGES),
    *(f"{name}_gain" for name, change in CHANGES.items() if change.gain is not None),
    "wrong_prompt",
    "emptied",
    "refused_harmless",
    "refused_harmful",
    "style",
    "distance",
)
"""The names of all audits that a probe may make."""
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class ProbePair:
    """A pair of answers, without their reasoning, and their versions.

    `prompt` is text to read. Pairs with the same `cluster` are not independent. `texts` holds the
    versions that exist: a change may not apply. `is_harmful` says of a prompt whether its right
    answer is a refusal, None where nobody knows; `refuses` says of chosen and rejected whether they
    refuse, None where the grader is not sure. `category` names the subset that the pair is in.
    """

    prompt: str
    texts: Mapping[Version, str]
    cluster: int
    is_harmful: bool | None = None
    refuses: tuple[bool | None, bool | None] = (None, None)
    category: str | None = None


@dataclass(frozen=True)
class ProbeData:
    """How a reward ranks the versions of each pair's answers.

    `scores` [versions][pairs] are those of a reward that scores, with NaN for what has no score.
    Of a judge of pairs there are `verdicts` instead, [two versions][pairs]: 1 where it prefers the
    first, 0 the second, ½ a tie, NaN no verdict.
    """

    pairs: Sequence[ProbePair]
    scores: Mapping[Version, Floats] | None = None
    verdicts: Mapping[tuple[Version, Version], Floats] | None = None
    confidence: float = 0.95

    def beats(self, first: Version, second: Version) -> Floats:
        """For each pair 1 where the first version is ranked above the second, 0 below, ½ for a tie
        and NaN where one of them has no score. Raises KeyError for what was not asked."""
        if self.scores is not None:
            difference = self.scores[first] - self.scores[second]
            return np.where(np.isnan(difference), np.nan, (np.sign(difference) + 1) / 2)
        assert self.verdicts is not None
        if (first, second) in self.verdicts:
            return self.verdicts[first, second]
        return 1 - self.verdicts[second, first]

    @cached_property
    def right(self) -> Bools:
        """Which pairs are ranked as people did, unchanged and without a tie."""
        return np.asarray(self.beats(CHOSEN, REJECTED) == 1)

    @cached_property
    def margins(self) -> Floats:
        """Score of chosen less that of rejected, NaN where one has none. Needs scores."""
        assert self.scores is not None
        return self.scores[CHOSEN] - self.scores[REJECTED]

    @cached_property
    def spread(self) -> float:
        """The margins' root mean square, which does not depend on which answer is called chosen;
        NaN without a margin."""
        known = self.margins[np.isfinite(self.margins)]
        return float(np.sqrt(np.mean(known**2))) if known.size else float("nan")

    def by_prompt(self, values: Floats, selected: Bools | None = None) -> list[Floats]:
        """The known values of the selected pairs, those of one prompt together."""
        if selected is not None:
            values = np.where(selected, values, np.nan)
        return self.clusters(values)

    def clusters(self, *columns: Floats, scale: float = 1.0) -> list[Floats]:
        """The known values of several columns over `scale`, those of one prompt together."""
        of: dict[int, list[float]] = {}
        for values in columns:
            for i in np.flatnonzero(np.isfinite(values)):
                of.setdefault(self.pairs[int(i)].cluster, []).append(float(values[i]) / scale)
        return [np.array(cluster) for cluster in of.values()]

    def sample(
        self, index: SupportsIndex, first: Version, second: Version, note: str
    ) -> AuditSample:
        """The pair at `index` as a sample: the first version with the second beside it."""
        i = int(index)
        pair = self.pairs[i]
        scores: dict[str, float] = {}
        if self.scores is not None:
            named = {"response": first, "other": second}
            if first[1]:
                named["response unchanged"] = (first[0], "")
            scores = {name: float(self.scores[version][i]) for name, version in named.items()}
        texts = pair.texts.get(first, ""), pair.texts.get(second, "")
        return AuditSample(pair.prompt, texts[0], texts[1], note, scores)


def comparisons_of(probes: Iterable[str]) -> list[tuple[Version, Version]]:
    """Which versions are compared for these probes, the pair itself first, each comparison once.

    A reward that scores needs the scores of these versions; a judge of pairs is asked about them.
    """
    asked = [(CHOSEN, REJECTED)]
    for probe in probes:
        if probe in CHANGES:
            asked.append((("rejected", probe), CHOSEN))
            if CHANGES[probe].gain is not None:
                asked.append((("chosen", probe), CHOSEN))
    if "wrong_prompt" in probes:
        asked.append((OTHER, CHOSEN))
    if "emptied" in probes:
        asked.append((EMPTY, CHOSEN))
    if "refused" in probes:
        asked += [(REFUSAL, CHOSEN), (REFUSAL, REJECTED)]
    if "style" in probes:
        asked += [(("chosen", a), ("rejected", b)) for a in STYLES for b in STYLES]
    unique: dict[frozenset[Version], tuple[Version, Version]] = {}
    for pair in asked:
        unique.setdefault(frozenset(pair), pair)
    return list(unique.values())


def versions_of(probes: Iterable[str]) -> list[Version]:
    """The versions whose scores these probes need: a change is made to both answers."""
    probes = tuple(probes)
    versions = dict.fromkeys(v for pair in comparisons_of(probes) for v in pair)
    for probe in probes:
        if probe in CHANGES and CHANGES[probe].gain is not None:
            versions |= dict.fromkeys((("chosen", probe), ("rejected", probe)))
    return list(versions)
