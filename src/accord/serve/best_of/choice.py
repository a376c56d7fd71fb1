"""How many candidates a request gets, and what it wants to know of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from accord.serve.best_of.stopping import Checkpoint, Stopping
from accord.serve.engine import EngineRequest
from accord.serve.errors import ApiError
from accord.serve.values import read_flag, read_number

WITHIN = "accord."
LARGEST = sys.float_info.max
FLOOR_TEXT = "None of the answers was good enough."


@dataclass(frozen=True, slots=True)
class BestOfOptions:
    """How a server chooses. `n` candidates for a request that says nothing, and `limit` at most for
    one that asks for more.

    A best score below `floor` is not returned: the answer is `floor_text`. `warning` is what a
    curve says of this N.
    """

    n: int = 1
    limit: int = 64
    prune: tuple[Checkpoint, ...] = ()
    stopping: Stopping = field(default_factory=Stopping)
    floor: float | None = None
    floor_text: str = FLOOR_TEXT
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What one request gets: `chosen` of `n` candidates."""

    n: int
    chosen: int
    scores: bool
    floor: float | None
    prune: bool
    greedy: bool = False

    @property
    def passes_through(self) -> bool:
        """Whether nothing is scored, so that tokens can be streamed as they come."""
        return self.n == self.chosen and not self.scores and self.floor is None


def read_choice(request: EngineRequest, options: BestOfOptions) -> Choice:
    """The keys of `accord` in a request's body. Raises ApiError (400) for one that is unknown or
    wrong."""
    given = request.options
    known = ("best_of", "scores", "floor", "prune")
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise ApiError(
            400,
            f"This server knows no `accord.{unknown}`; it knows {', '.join(known)}.",
            param=f"accord.{unknown}",
        )
    chosen = request.sampling.num_responses
    asked = _read_best_of(given, options.limit)
    greedy = request.sampling.temperature == 0
    if greedy and asked is not None and asked > 1:
        raise ApiError(
            400,
            "With temperature 0 all candidates are equal. Set a temperature, or leave "
            "`accord.best_of` out.",
            param="accord.best_of",
        )
    if asked is not None and asked < chosen:
        raise ApiError(
            400,
            f"{chosen} answers can't be chosen from {asked} candidates. Raise `accord.best_of`, "
            f"or lower `n`.",
            param="accord.best_of",
        )
    n = asked or (1 if greedy else options.n)
    return Choice(
        max(n, chosen),
        chosen,
        read_flag(given, "scores", within=WITHIN),
        read_number(given, "floor", options.floor, -LARGEST, LARGEST, within=WITHIN),
        read_flag(given, "prune", True, within=WITHIN),
        greedy and asked is None and options.n > 1,
    )


def _read_best_of(given: Mapping[str, Any], limit: int) -> int | None:
    value = given.get("best_of")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise ApiError(
            400,
            f"`accord.best_of` must be a whole number from 1 to {limit}, which is this server's "
            f"limit.",
            param="accord.best_of",
        )
    return value
