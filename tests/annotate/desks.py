"""Stores and queues that the tests of the annotation page share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accord.annotate.desk import Desk
from accord.annotate.start import open_desk
from accord.compare.store.store import PreferenceStore
from accord.records import Message, Response
from accord.settings.annotate import AnnotateSettings

CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "I have rice."),
    Message("assistant", "Fry it."),
    Message("user", "How long?"),
)


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def fill(path: str | Path, prompts: int = 3, models: tuple[str, ...] = ("red", "blue")) -> None:
    """A store with a response of each model to each prompt: `red to 0`, `blue to 0`, …"""
    with PreferenceStore.open(path) as store:
        store.add_responses(
            [
                Response(CONVERSATION if i == 0 else f"prompt {i}", f"{model} to {i}", model)
                for i in range(prompts)
                for model in models
            ]
        )


def desk_of(store: PreferenceStore, clock: Clock | None = None, **settings: Any) -> Desk:
    """A queue at work on the store."""
    desk, _ = open_desk(store, AnnotateSettings(**settings), log=lambda line: None)
    return replace(desk, clock=clock or Clock())


def body(key: str = "k", **values: Any) -> dict[str, Any]:
    """An answer as the page sends it: the left one is better, unless `values` say otherwise."""
    standard = {"key": key.ljust(32, "."), "action": "vote", "view": "rendered", "seconds": 9.0}
    if "ranks" not in values and values.get("action", "vote") == "vote":
        standard["outcome"] = "left"
    return {**standard, **values}


def vote(desk: Desk, name: str, key: str | None = None, **values: Any) -> int:
    """Take the next item and answer it; the item's id."""
    assignment = desk.next(name)
    assert assignment is not None
    key = key or f"{name} on {assignment.item.id}"
    desk.answer(name, assignment.item.id, body(key, **values), session="visit")
    return assignment.item.id
