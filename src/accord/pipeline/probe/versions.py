"""The versions of each pair's answers: changed, empty, a refusal, the answer to another prompt."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.measure.audits.probes import (
    CHOSEN,
    EMPTY,
    OTHER,
    REFUSAL,
    REJECTED,
    ProbePair,
    Version,
)
from accord.measure.audits.probes_changes import APPLY
from accord.measure.audits.probes_texts import ENGLISH, ProbeTexts, texts_from
from accord.measure.audits.refusals import HARMFUL_KINDS
from accord.measure.texts.refusals import grade_refusal
from accord.pipeline.probe.pairs import HeldOutPair, HeldOutPairs
from accord.records import Prompt, prompt_text
from accord.settings.probe import ProbeSettings
from accord.settings.reading.load import load_yaml
from accord.settings.rewards import WorldSource
from accord.world.grammar import FILLER, FLATTERY

WORLD_TEXTS = {
    "filler": list(FILLER),
    "flattery": list(FLATTERY),
    "refusals": ["I am sorry, but I cannot help with that.", "Sorry, but I cannot do that."],
}
"""Phrases of the embedded world's own language, which it reads as such."""


@dataclass(frozen=True, slots=True)
class VersionedPair:
    """A pair with all its versions: each the whole response, and whether it ended by itself.

    `measured` is the pair as the audits see it, with the answers alone.
    """

    prompt: Prompt
    meta: Mapping[str, Any]
    responses: Mapping[Version, tuple[str, bool]]
    measured: ProbePair


def read_texts(settings: ProbeSettings) -> ProbeTexts:
    """The phrases of the probes: those of the file, of the embedded world where the reward is all
    its own, or English."""
    scored = [source for source in settings.sources if source.weight]
    in_world = bool(scored) and all(isinstance(source, WorldSource) for source in scored)
    defaults = texts_from(WORLD_TEXTS, "the embedded world") if in_world else ENGLISH
    if settings.texts is None:
        return defaults
    return texts_from(load_yaml(settings.texts).values, settings.texts, defaults)


def make_versions(
    held_out: HeldOutPairs, versions: Collection[Version], texts: ProbeTexts
) -> list[VersionedPair]:
    """Each pair with those of the versions that exist for it."""
    pairs = held_out.pairs
    others = other_answers(pairs) if OTHER in versions else [None] * len(pairs)
    harmful = [str(pair.meta.get("kind")) in HARMFUL_KINDS for pair in pairs]
    clusters: dict[Prompt, int] = {}
    made = []
    for number, (pair, other) in enumerate(zip(pairs, others, strict=True)):
        answers = _answers(pair, number, versions, texts)
        responses = {
            version: (getattr(pair, version[0]).changed(answer), _finished(pair, version))
            if version[0] in ("chosen", "rejected")
            else (answer, True)
            for version, answer in answers.items()
        }
        if other is not None:
            donor = pairs[other].chosen
            answers[OTHER] = donor.answer
            responses[OTHER] = (donor.changed(donor.answer), donor.finished)
        category = None if held_out.category is None else pair.meta.get(held_out.category)
        prompt = prompt_text(pair.prompt)
        measured = ProbePair(
            prompt,
            answers,
            clusters.setdefault(pair.prompt, len(clusters)),
            harmful[number] if any(harmful) else None,
            (_refuses(pair.chosen.answer, prompt), _refuses(pair.rejected.answer, prompt)),
            None if category is None else str(category),
        )
        made.append(VersionedPair(pair.prompt, pair.meta, responses, measured))
    return made


def other_answers(pairs: Sequence[HeldOutPair]) -> list[int | None]:
    """For each pair the index of another whose chosen answer is given to its prompt: that of the
    nearest length in words, so that length is no reason to prefer one. A refusal suits more than
    one prompt, so it is given to none. None where there is no other prompt."""
    words = [len(pair.chosen.answer.split()) for pair in pairs]
    donors = [
        i
        for i in sorted(range(len(pairs)), key=words.__getitem__)
        if pairs[i].chosen.answer.strip()
        and _refuses(pairs[i].chosen.answer, prompt_text(pairs[i].prompt)) is not True
    ]
    others: list[int | None] = []
    for i, pair in enumerate(pairs):
        fitting = (
            j
            for j in _by_nearness(donors, words, i)
            if pairs[j].prompt != pair.prompt and pairs[j].chosen.answer != pair.chosen.answer
        )
        others.append(next(fitting, None))
    return others


def _by_nearness(donors: Sequence[int], words: Sequence[int], i: int) -> Iterator[int]:
    """Donors, which are sorted by words, from those as long as pair i's answer outwards."""
    after = bisect_left(donors, words[i], key=words.__getitem__)
    before = after - 1
    while before >= 0 or after < len(donors):
        shorter = words[i] - words[donors[before]] if before >= 0 else math.inf
        longer = words[donors[after]] - words[i] if after < len(donors) else math.inf
        if longer <= shorter:
            yield donors[after]
            after += 1
        else:
            yield donors[before]
            before -= 1


def _answers(
    pair: HeldOutPair, number: int, versions: Collection[Version], texts: ProbeTexts
) -> dict[Version, str]:
    answers: dict[Version, str] = {}
    unchanged = {CHOSEN[0]: pair.chosen.answer, REJECTED[0]: pair.rejected.answer}
    for version in versions:
        side, change = version
        if version == EMPTY:
            answers[version] = ""
        elif version == REFUSAL:
            answers[version] = texts.refusals[number % len(texts.refusals)]
        elif side in unchanged:
            answer = unchanged[side]
            changed = APPLY[change](answer, texts, number) if change else answer
            if changed is not None:
                answers[version] = changed
    return answers


def _finished(pair: HeldOutPair, version: Version) -> bool:
    side = pair.chosen if version[0] == "chosen" else pair.rejected
    return side.finished


def _refuses(answer: str, prompt: str) -> bool | None:
    grade = grade_refusal(answer, prompt)
    return grade.refuses if grade.known else None
