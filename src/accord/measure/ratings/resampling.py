"""What a bootstrap of battles draws: single battles, or prompts with all of their battles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, eye_array, vstack

from accord.measure.ratings.battles import OUTCOMES, Counts
from accord.measure.ratings.table import BattleTable, Integers
from accord.measure.statistics import Floats

TIES = np.array([outcome in ("tie", "both_bad") for outcome in OUTCOMES])
WON, LOST = OUTCOMES.index("a"), OUTCOMES.index("b")
BLOCK = 2_000_000  # numbers at a time, 16 MB in each of some ten arrays


@dataclass(frozen=True, slots=True)
class Units:
    """What is independent of each other: `weight` [units] of each in a draw, and how many battles
    of each lie in each cell, `contents` [units, cells]. `first`, `second` and `outcome` [cells] are
    a cell's models and outcome.

    `drawn` is the number of units that a round draws, those of the data; the pseudo-battles of a
    prior are units of their own beside them. `clustered` says that prompts are the units.
    """

    weight: Floats
    contents: csr_array
    first: Integers
    second: Integers
    outcome: Integers
    drawn: int
    models: int
    clustered: bool = False

    def matrices(self, cell_counts: Floats) -> tuple[Floats, Floats]:
        """Wins and ties [..., models, models] of counts [..., cells]; a tie is in both entries."""
        lead = cell_counts.shape[:-1]
        wins, ties = (np.zeros((*lead, self.models, self.models)) for _ in range(2))
        for matrix, which, swap in (
            (wins, self.outcome == WON, False),
            (wins, self.outcome == LOST, True),
            (ties, TIES[self.outcome], False),
            (ties, TIES[self.outcome], True),
        ):
            rows, columns = self.first[which], self.second[which]
            rows, columns = (columns, rows) if swap else (rows, columns)
            flat = rows * self.models + columns
            target = matrix.reshape(-1, self.models**2)
            ones = csr_array(
                (np.ones(len(flat)), (np.arange(len(flat)), flat)),
                shape=(len(flat), self.models**2),
            )
            target += cell_counts.reshape(-1, cell_counts.shape[-1])[:, which] @ ones
        return wins, ties

    def draw(self, rounds: int, seed: int) -> Iterator[Floats]:
        """Blocks of the cells' counts [rounds of the block, cells]."""
        rng = np.random.default_rng(seed)
        size = max(1, BLOCK // max(len(self.weight), self.models**2))
        for start in range(0, rounds, size):
            number = min(rounds, start + size) - start
            times = self._times(number, rng)
            yield np.asarray((self.contents.T @ times.T).T, dtype=np.float64)

    def _times(self, rounds: int, rng: np.random.Generator) -> Integers:
        """How often each unit is drawn [rounds, units]."""
        units = len(self.weight)
        if units < self.drawn or np.ptp(self.weight) > 0:
            return rng.multinomial(self.drawn, self.weight / self.weight.sum(), size=rounds)
        rows = units * np.arange(rounds)[:, None]  # as above, and ten times as fast
        drawn = rng.integers(0, units, size=(rounds, self.drawn)) + rows
        return np.bincount(drawn.ravel(), minlength=rounds * units).reshape(rounds, units)


def units_of(battles: BattleTable | Counts, names: Sequence[str], pseudo: Floats) -> Units:
    """The prompts of a table, or the single battles of counts; and the pseudo-battles `pseudo`
    [models, models] of a prior, of which the first model won as many against the second."""
    models = len(names)
    clustered = isinstance(battles, BattleTable)
    if isinstance(battles, BattleTable):
        contents, cells = battles.by_prompt()
        pairs, outcome = np.divmod(cells, len(OUTCOMES))
        first, second = np.divmod(pairs, models)
        weight = np.ones(contents.shape[0])
        drawn = contents.shape[0]
    else:
        index = {name: i for i, name in enumerate(names)}
        first = np.array([index[a] for a, _, _ in battles])
        second = np.array([index[b] for _, b, _ in battles])
        outcome = np.array([OUTCOMES.index(o) for *_, o in battles])
        weight = np.array(list(battles.values()), dtype=np.float64)
        contents, drawn = eye_array(len(weight), format="csr"), int(weight.sum())
    i, j = np.nonzero(pseudo > 0)
    if len(i):
        old, new = contents.shape[1], len(i)
        contents.resize(contents.shape[0], old + new)
        extra = csr_array((np.ones(new), (np.arange(new), old + np.arange(new))), (new, old + new))
        contents = csr_array(vstack([contents, extra]))
        weight = np.concatenate([weight, pseudo[i, j]])
        first, second = np.concatenate([first, i]), np.concatenate([second, j])
        outcome = np.concatenate([outcome, np.full(new, WON)])
    contents = csr_array(contents)
    return Units(weight, contents, first, second, outcome, drawn, models, clustered)
