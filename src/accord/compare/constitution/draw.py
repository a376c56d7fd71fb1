"""Which principle each round of a response goes by: drawn at random by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accord.compare.constitution.principles import Principle, read_principles
from accord.errors import SettingsError
from accord.settings.reading.suggest import did_you_mean, listed


def read_constitution(names: Sequence[str], only: Sequence[str]) -> list[Principle]:
    """The principles of several constitutions, whose ids are `constitution/id`.

    `only` names those that are used, with or without the constitution's name. Raises SettingsError
    for one that there is not, and for two files of the same name.
    """
    principles: dict[str, Principle] = {}
    for name in names:
        for principle in read_principles(name):
            full = f"{Path(name).stem}/{principle.id}"
            if full in principles:
                raise SettingsError(
                    f"Two constitutions of {listed(names)} have the principle {full}. Name each "
                    f"constitution once, and give files names of their own."
                )
            principles[full] = replace(principle, id=full)
    known = {*principles, *(full.split("/", 1)[1] for full in principles)}
    for name in only:
        if name not in known:
            raise SettingsError(
                f"`principles` names {name!r}, which {listed(names)} does not have."
                f"{did_you_mean(name, known)} The principles are {listed(principles)}."
            )
    if not only:
        return list(principles.values())
    return [p for full, p in principles.items() if {full, full.split("/", 1)[1]} & set(only)]


def draw_principles(
    principles: Sequence[Principle], rounds: int, *, seed: int, row: int
) -> list[Principle]:
    """The principle of each round of one response, by the principles' weights.

    None is drawn a second time before all have been drawn. The draws are a function of the seed and
    the row's number alone.
    """
    rng = random.Random(f"revise {seed} {row}")
    drawn: list[Principle] = []
    left: list[Principle] = []
    for _ in range(rounds):
        left = left or list(principles)
        principle = rng.choices(left, weights=[p.weight for p in left])[0]
        left = [p for p in left if p is not principle]
        drawn.append(principle)
    return drawn
