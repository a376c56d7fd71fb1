"""Signs of life: what each process of a run says of itself, and what follows from their absence.

A process that works is never taken for one that hangs, however long it takes. One that gives no
sign (it is stopped, or its machine is gone), or whose main thread stands still while others wait
for it, ends the run; the message names it and says what it was doing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

MAX_SILENCE = 300.0  # seconds; a process's thread reports every second, however busy it is

Waiting = Literal["", "limited", "unlimited"]


@dataclass(frozen=True, slots=True)
class Sign:
    """What a process last said: `beats` counts its signs, `progress` what its main thread did.

    `waiting`: it waits for the others, with or without a limit. `doing` says where its main thread
    is. `ended`: the process has ended by itself.
    """

    rank: int
    machine: str
    beats: int = 0
    progress: int = 0
    waiting: Waiting = ""
    doing: str = ""
    ended: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_bytes(content: bytes) -> Sign:
        return Sign(**json.loads(content))

    @property
    def name(self) -> str:
        return f"process {self.rank} ({self.machine})"


@dataclass(slots=True)
class _Seen:
    """The last sign of a process, and when its beats and its progress last changed."""

    sign: Sign
    beat_at: float
    progress_at: float


@dataclass(slots=True)
class Observer:
    """One process's view of all, by its own clock: no clocks are compared between machines."""

    rank: int
    world_size: int
    seen: dict[int, _Seen] = field(default_factory=dict)
    last_at: float | None = None

    def observe(self, now: float, signs: Mapping[int, Sign], *, interval: float) -> None:
        """Take in the newest signs. After a pause of its own the observer knows nothing."""
        if self.last_at is not None and now - self.last_at > 5 * interval + 2.0:
            for seen in self.seen.values():
                seen.beat_at = seen.progress_at = now
        self.last_at = now
        for rank, sign in signs.items():
            seen = self.seen.setdefault(rank, _Seen(sign, now, now))
            if sign.beats != seen.sign.beats:
                seen.beat_at = now
            if sign.progress != seen.sign.progress or sign.waiting != seen.sign.waiting:
                seen.progress_at = now
            seen.sign = sign

    def silent(self, now: float, seconds: float) -> list[Sign]:
        """The processes that have given no sign for so long, and had not ended."""
        return [
            seen.sign
            for seen in self.seen.values()
            if now - seen.beat_at > seconds and not seen.sign.ended
        ]

    def ended(self) -> list[Sign]:
        """The other processes that have ended by themselves."""
        return [s.sign for r, s in self.seen.items() if s.sign.ended and r != self.rank]

    def standing_still(self, now: float, seconds: float) -> list[Sign] | None:
        """The processes that keep this one waiting: alive, not waiting, and without progress for
        so long. Empty where all wait for each other; None where there is nothing to complain of.
        """
        if len(self.seen) < self.world_size:
            return None
        still = {r: s for r, s in self.seen.items() if now - s.progress_at > seconds}
        mine = self.seen[self.rank].sign
        if self.rank not in still or mine.waiting == "unlimited":
            return None
        culprits = [s.sign for s in still.values() if not s.sign.waiting and not s.sign.ended]
        if culprits:
            return None if [s.rank for s in culprits] == [self.rank] else culprits
        return [] if len(still) == self.world_size else None

    def since_beat(self, now: float, rank: int) -> float:
        """Seconds since a process's last sign."""
        return now - self.seen[rank].beat_at


def silence_limit(timeout: float) -> float:
    """Seconds without any sign after which a process counts as gone."""
    return min(timeout, MAX_SILENCE)


def gone_message(sign: Sign, seconds: float) -> str:
    return (
        f"The {sign.name} has given no sign of life for {seconds:.0f} seconds: it is stopped, or "
        f"its machine hangs or is gone. It was last {sign.doing}. The same command resumes from "
        f"the last checkpoint."
    )


def still_message(rank: int, culprits: list[Sign], timeout: float) -> str:
    """What a process says that has waited in vain."""
    opening = f"Process {rank} waited ddp_timeout={timeout:g} seconds for the other processes of"
    closing = "raise ddp_timeout. The same command resumes from the last checkpoint."
    if not culprits:
        return (
            f"{opening} this run, and all of them wait for each other: they have not taken the "
            f"same steps. If a reward or a data set differs between them, make it the same; or "
            f"{closing}"
        )
    named = "; ".join(f"{sign.name} is {sign.doing}" for sign in culprits)
    return (
        f"{opening} this run, and it made no progress: {named}. It hangs, or a single call takes "
        f"longer. Look at what it does (`py-spy dump`), or {closing}"
    )


def lost_message(rank: int, error: object, gone: list[tuple[Sign, float]]) -> str:
    """What a process says whose connection broke; `gone` are the processes that did not answer
    any more, with the seconds since their last sign."""
    named = "; ".join(
        f"{sign.name} has ended, and its own message says why"
        if sign.ended
        else f"{sign.name} has ended without a word (killed, or out of memory): {seconds:.0f} "
        f"seconds before it was {sign.doing}"
        for sign, seconds in gone
        if sign.rank != rank
    )
    known = f"The {named}." if named else "If one of them has ended, its own message says why."
    return (
        f"The processes of this run lost their connection: {error}. {known} The same command "
        f"resumes from the last checkpoint."
    )


def store_message(error: str) -> str:
    """What a process says that waits and does not reach the launcher's store any more."""
    reason = error.partition("\n")[0][:200]
    return (
        f"The launcher of this run, or its main process, can't be reached any more ({reason}): it "
        f"has ended, or its machine is gone. Its own message says why. The same command resumes "
        f"from the last checkpoint."
    )
