"""Ratings by arena-rank and evalica, in their environment: seconds, and the ratings, as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def arena_rank(frame: pd.DataFrame) -> dict[str, Any]:
    from arena_rank.models.bradley_terry import BradleyTerry
    from arena_rank.utils.data_utils import PairDataset

    loading, data = timed(lambda: PairDataset.from_pandas(frame))
    model = BradleyTerry(n_competitors=len(data.competitors))
    fitting, result = timed(lambda: model.compute_ratings_and_cis(data, significance_level=0.05))
    # Its default stops when a step changes the loss by less than 1e-9 of it; this fit goes on.
    exact = BradleyTerry(n_competitors=len(data.competitors), ftol=0.0, gtol=1e-12)
    converged = exact.compute_ratings_and_cis(data, significance_level=0.05)

    def by_name(ratings: Any) -> dict[str, float]:
        return dict(zip(map(str, data.competitors), ratings.tolist(), strict=True))

    return {
        "load": loading,
        "fit": fitting,
        "ratings": by_name(result["ratings"]),
        "converged": by_name(converged["ratings"]),
    }


def evalica(frame: pd.DataFrame) -> dict[str, Any]:
    import evalica as peer

    winners = {"model_a": peer.Winner.X, "model_b": peer.Winner.Y, "tie": peer.Winner.Draw}

    def fit() -> Any:
        outcomes = [winners[winner] for winner in frame["winner"]]
        a, b = frame["model_a"].tolist(), frame["model_b"].tolist()
        return peer.bradley_terry(a, b, outcomes, tolerance=1e-12, limit=10_000)

    seconds, result = timed(fit)
    strengths = 400 * np.log10(result.scores)
    return {"fit": seconds, "ratings": dict(zip(map(str, strengths.index), strengths, strict=True))}


def main() -> None:
    frame = pd.read_parquet(sys.argv[1])
    print(json.dumps({"arena-rank": arena_rank(frame), "evalica": evalica(frame)}))


if __name__ == "__main__":
    main()
