"""A recipe's filter against what a store holds: which verdicts it reads, and what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from accord.compare.store.fingerprint import JudgeCheck
from accord.compare.store.rows import Facet, Selection, VerdictKind
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError
from accord.settings.verdicts import WHOLE, VerdictFilter

EVERYTHING = VerdictFilter()
MAX_NAMES = 10  # that a message lists


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What a filter reads of a store: `read` of `verdicts` verdicts; `left_out` has the number of
    the others by reason. `unchecked` are the digests and criteria of judges that do not train."""

    selection: Selection
    verdicts: int
    read: int
    left_out: dict[str, int]
    unchecked: frozenset[tuple[str, str | None]]
    criteria: tuple[str, ...]

    def note(self) -> list[str]:
        """What the filter leaves out, for the report."""
        if not self.left_out:
            return []
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return [f"the filter reads {self.read:,} of {self.verdicts:,} verdicts: {reasons}"]


def plan_read(
    store: PreferenceStore, verdict_filter: VerdictFilter, kinds: Collection[VerdictKind]
) -> ReadPlan:
    """What the filter reads of the store's verdicts of these kinds.

    Raises DataError where it names what the store does not have.
    """
    facets = [facet for facet in store.facets() if facet.kind in kinds] if kinds else []
    keys: dict[str, Callable[[Facet], Any]] = {
        "source": lambda facet: facet.source,
        "round": lambda facet: facet.round,
        "annotator": lambda facet: facet.annotator,
        "criterion": lambda facet: facet.criterion or WHOLE,
    }
    left_out: dict[str, int] = {}
    remaining = facets
    for key, value_of in keys.items():
        named = getattr(verdict_filter, key)
        if named is None:
            continue
        _check_known(store.path, key, named, {value_of(facet) for facet in facets})
        outside = [facet for facet in remaining if value_of(facet) not in named]
        if outside:
            left_out[f"of another {key}"] = sum(facet.verdicts for facet in outside)
        remaining = [facet for facet in remaining if value_of(facet) in named]
    criteria = Counter[str]()
    for facet in remaining:
        criteria[facet.criterion or WHOLE] += facet.verdicts
    return ReadPlan(
        _selection(verdict_filter),
        sum(facet.verdicts for facet in facets),
        sum(facet.verdicts for facet in remaining),
        left_out,
        _unchecked(store, verdict_filter, remaining, facets),
        tuple(f"{name} ({count:,})" for name, count in criteria.most_common()),
    )


def _selection(verdict_filter: VerdictFilter) -> Selection:
    criteria: tuple[str | None, ...] | None = None
    if verdict_filter.criterion is not None:
        whole = (None,) if WHOLE in verdict_filter.criterion else ()
        criteria = (*verdict_filter.criterion, *whole)
    return Selection(
        rounds=_tuple(verdict_filter.round),
        annotators=_tuple(verdict_filter.annotator),
        sources=_tuple(verdict_filter.source),
        criteria=criteria,
    )


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _unchecked(
    store: PreferenceStore,
    verdict_filter: VerdictFilter,
    read: Iterable[Facet],
    facets: Iterable[Facet],
) -> frozenset[tuple[str, str | None]]:
    """The judges, each with a criterion, whose latest check is missing or failed, without those
    that the filter names."""
    judges = store.judges()
    passed = passed_checks(store.judge_checks(), verdict_filter)
    named = set(verdict_filter.unchecked_judges or ())
    known = {name for f in facets if f.judge for name in (f.annotator, judges[f.judge].model)}
    if named:
        _check_known(store.path, "unchecked_judges", sorted(named), known)
    return frozenset(
        (facet.judge, facet.criterion)
        for facet in read
        if facet.judge is not None
        and not passed.get((facet.judge, facet.criterion), False)
        and not {facet.annotator, judges[facet.judge].model} & named
    )


def passed_checks(
    checks: Iterable[JudgeCheck], verdict_filter: VerdictFilter
) -> dict[tuple[str, str | None], bool]:
    """Whether each judge passed its latest check, by the digest of its fingerprint and criterion:
    among these checks and those of the store `judge_checks`. Raises DataError where that is none.
    """
    every = list(checks)
    if verdict_filter.judge_checks is not None:
        with PreferenceStore.read(verdict_filter.judge_checks) as other:
            every += other.judge_checks()
    every.sort(key=lambda check: check.created)  # to the second; then in the order of their ids
    return {(check.fingerprint.digest, check.criterion): check.passed for check in every}


def _check_known(path: str, key: str, named: Iterable[Any], known: Iterable[Any]) -> None:
    """Raise DataError for a value that no verdict of the store has."""
    values = sorted({value for value in known if value is not None}, key=str)
    for value in named:
        if value in values:
            continue
        close = get_close_matches(str(value), map(str, values), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(map(repr, values[:MAX_NAMES])) or "none"
        more = f" and {len(values) - MAX_NAMES} more" if len(values) > MAX_NAMES else ""
        raise DataError(
            f"`filter.{key}` names {value!r}, which no verdict of {path} has.{hint} "
            f"It has {listed}{more}."
        )
