"""The battles of a store: pairs by the answer shown first, rankings as a battle of each two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError
from accord.measure.ratings.battles import outcome_matrices, score_matrix
from accord.measure.ratings.bradley_terry import components, fit_strengths
from accord.pipeline.stages.battles import build_from_store
from accord.records import Response


def test_the_answer_shown_first_is_the_first_one(tmp_path: Path) -> None:
    with PreferenceStore.open(tmp_path / "store.db") as store:
        x, y = store.add_responses(
            [Response(prompt="q", text="one", model="x"), Response(prompt="q", text="1", model="y")]
        )
        store.add_verdicts([PairVerdict(x, y, "a", "judge", shown_first="b")])
        builder, positions = build_from_store(store)
        table = builder.table()
        assert positions
        assert [table.names[i] for i in (*table.a, *table.b)] == ["y", "x"]
        assert table.counts() == {("x", "y", "a"): 1}
        assert table.lengths is not None
        assert table.lengths.tolist() == [[1, 3]]
        with pytest.raises(DataError, match="'kind' in its `meta`"):
            build_from_store(store, "kind")


def test_the_22_games_of_wikipedia() -> None:
    """The worked example of the article on the model: strengths of geometric mean 1."""
    wins = {("A", "B"): 2, ("A", "D"): 1, ("B", "A"): 3, ("B", "C"): 5, ("C", "B"): 3}
    wins |= {("C", "D"): 1, ("D", "A"): 4, ("D", "C"): 3}
    counts = {(a, b, "a"): number for (a, b), number in wins.items()}
    scores = score_matrix(outcome_matrices(counts, "ABCD"))  # type: ignore[arg-type]
    strengths = np.exp(fit_strengths(scores, components(scores)))
    assert strengths == pytest.approx([0.640, 1.043, 0.660, 2.270], abs=5e-4)
