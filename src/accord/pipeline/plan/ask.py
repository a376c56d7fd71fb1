"""What is asked of a plan beside the plan itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanQuestion:
    """The machine and the number of processes as described, the stage that the other questions are
    about (by default the last that trains), and these: the largest value of a setting, two steps
    run for real, the roles of other methods."""

    gpus: str | None = None
    memory: str | None = None
    stage: str | None = None
    fit: str | None = None
    measure: bool = False
    compare: bool = False
    settings: bool = False
    as_json: bool = False
    processes: int | None = None
