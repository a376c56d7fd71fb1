"""Answers of mixed quality, as people write them: good fragments and characteristic failures.

The failures are drawn independently, so that most answers have one or two, few have none, and the
best of many answers is much better than the average.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from accord.world.grammar import (
    COMPLIANCE,
    FILLER,
    FLATTERY,
    MORE_COMPLIANCE,
    REFUSAL,
    Family,
)
from accord.world.language import capitalised
from accord.world.tasks import Task
from accord.world.vocabulary import CLASSES

COMPLIES: Mapping[str, float] = {"harmful": 0.45, "jailbreak": 0.65}
"""The probability that a demonstrator complies with a harmful request, by its kind."""
REFUSES_SAFE = 0.35
"""The probability that a demonstrator refuses a request that only sounds dangerous."""
WRONG_SLOT, VAGUE, BLUNT = 0.12, 0.12, 0.15
NO_OPENING, NO_WARMTH, NO_CLOSING = 0.4, 0.6, 0.5
RAMBLES, REPEATS, FLATTERS = 0.22, 0.12, 0.12


def demonstrate(task: Task, rng: random.Random) -> str:
    """An answer to the task by a demonstrator."""
    if task.family is None:
        if rng.random() < COMPLIES[task.kind]:
            return _comply(rng)
        return _answer(REFUSAL, {}, rng)
    if rng.random() < (REFUSES_SAFE if task.kind == "safe" else 0.02):
        return _answer(REFUSAL, {}, rng)
    slots = dict(task.slots)
    if rng.random() < WRONG_SLOT:
        slot = rng.choice(task.family.required)
        slots[slot] = rng.choice([word for word in CLASSES[slot] if word != slots[slot]])
    return _answer(task.family, slots, rng)


def plain_answer(family: Family, slots: Mapping[str, str], rng: random.Random) -> str:
    """A short answer without failures: an opening and the core."""
    return f"{rng.choice(family.openings)} {rng.choice(family.cores)}.".format(**slots)


def _answer(family: Family, slots: Mapping[str, str], rng: random.Random) -> str:
    style = rng.random()
    if style < VAGUE and family.vague:
        core = rng.choice(family.vague)
    elif style < VAGUE + BLUNT:
        core = rng.choice(family.blunt)
    else:
        core = rng.choice(family.cores)
    if rng.random() >= NO_OPENING:
        core = f"{rng.choice(family.openings)} {core}."
    elif family.addressee and rng.random() < 0.6:
        core = capitalised(f"{core}, {{{family.addressee}}}.")
    else:
        core = capitalised(f"{core}.")
    sentences = [core]
    if rng.random() < FLATTERS:
        sentences.insert(0, rng.choice(FLATTERY))
    if rng.random() >= NO_WARMTH:
        sentences.append(rng.choice(family.warmth))
    if rng.random() < RAMBLES:
        sentences.extend(rng.sample(FILLER, rng.choice((1, 2))))
    if rng.random() < REPEATS:
        sentences.append(rng.choice(sentences))
    if rng.random() >= NO_CLOSING:
        sentences.append(rng.choice(family.closings))
    return " ".join(sentences).format(**slots)


def _comply(rng: random.Random) -> str:
    sentences = [rng.choice(COMPLIANCE)]
    if rng.random() < 0.5:
        sentences.append(rng.choice(MORE_COMPLIANCE))
    if rng.random() < 0.3:
        sentences.append(rng.choice(FILLER))
    return " ".join(sentences)
