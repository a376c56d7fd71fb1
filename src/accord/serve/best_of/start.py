"""From what the command line says of best-of-N to its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from accord.compare.rewards.reward import CombinedReward
from accord.errors import RequestError
from accord.records import Prompt
from accord.serve.best_of.choice import FLOOR_TEXT, BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer, nothing_opened
from accord.serve.best_of.stopping import Stopping, read_checkpoints
from accord.serve.engine import Engine

DEFAULT_LIMIT = 64  # candidates that a request may ask for


@dataclass(frozen=True, slots=True)
class BestOf:
    """How a server chooses, and by what; the reward is loaded when the server starts."""

    options: BestOfOptions
    make_reward: Callable[[], CombinedReward]


def with_best_of(
    engine: Engine, best_of: BestOf | None, opened: Callable[[Prompt], str] = nothing_opened
) -> Engine:
    """The engine, or best-of-N on it. Raises RewardError where the reward reads columns of a row,
    which no request has."""
    if best_of is None:
        return engine
    reward = best_of.make_reward()
    reward.check_rows(["Hello."], [{}])
    return BestOfEngine(engine, Scorer(reward), best_of.options, opened)


def best_of_options(
    n: int,
    *,
    limit: int | None = None,
    prune: str | None = None,
    enough: float | None = None,
    candidate_cost: float | None = None,
    wave: int = 4,
    floor: float | None = None,
    floor_text: str | None = None,
    curve: Mapping[str, Any] | None = None,
) -> BestOfOptions:
    """How a server chooses; `curve` is the content of a curve.json. Raises RequestError and
    SettingsError for options that do not fit."""
    limit = max(n, DEFAULT_LIMIT) if limit is None else limit
    if limit < n:
        raise RequestError(
            f"--max-best-of {limit} is below --best-of {n}, which every request would have."
        )
    stopping = Stopping(enough, candidate_cost, wave)
    if wave != Stopping().wave and not stopping.is_sequential:
        raise RequestError(
            "--wave says how many candidates are drawn before it is asked whether they suffice. "
            "Give --enough or --candidate-cost, or leave it out."
        )
    return BestOfOptions(
        n,
        limit,
        () if prune is None else read_checkpoints(prune),
        stopping,
        floor,
        floor_text or FLOOR_TEXT,
        None if curve is None else curve_warning(curve, n),
    )


def curve_warning(curve: Mapping[str, Any], n: int) -> str | None:
    """What a curve says against serving best-of-n; None where it says nothing against it."""
    turn = curve.get("turn")
    if not isinstance(turn, Mapping) or n < turn["n"]:
        return None
    fall = turn["difference"]
    return (
        f"The independent measure turns down at N = {turn['n']}: it differs from N = {turn['m']} "
        f"by {fall['mean']:+.3g} ({fall['low']:+.3g} to {fall['high']:+.3g}), and this is N = {n}."
    )
