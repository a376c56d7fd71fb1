"""The study of many annotators sees what it is there to see."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

from accord.compare.store.connection import transaction
from accord.compare.store.queue_schema import ITEMS
from accord.compare.store.store import PreferenceStore
from tests.annotate.desks import desk_of, vote

STUDIES = Path(__file__).resolve().parents[2] / "studies"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module("vote_checks")


def test_votes_that_are_lost_doubled_or_of_someone_else(
    checks: ModuleType, store: PreferenceStore
) -> None:
    desk = desk_of(store)
    item = vote(desk, "ann", key="one")
    key = "one".ljust(32, ".")
    log = checks.Log(acknowledged={key: 1}, item_of={key: (item, "ann")})
    assert checks.wrong_votes(store, log) == []
    log.item_of[key] = (item, "bob")
    assert checks.wrong_votes(store, log) == [f"key {key} is by ann, not bob"]
    log.acknowledged = {}
    assert checks.wrong_votes(store, log) == [f"key {key} was not acknowledged"]
    log.acknowledged = {key: 7}
    assert "acknowledged as 7" in checks.wrong_votes(store, log)[0]


def test_items_with_too_many_people(checks: ModuleType, store: PreferenceStore) -> None:
    desk = desk_of(store, overlap=2)
    for name in ("ann", "bob"):
        vote(desk, name)
    assert checks.wrong_counts(store, 2) == []
    assert checks.count_full(store, 1) == (2, 3)  # the item with the fewest votes comes first
    assert checks.wrong_counts(store, 0)[0] == "item 1 has 1 people for 0 votes"
    with transaction(store.engine, store.path, writes=True) as connection:
        connection.execute(sa.update(ITEMS).where(ITEMS.c.id == 1).values(taken=0))
    assert checks.wrong_counts(store, 2) == ["item 1 counts 0 assignments and has 1"]


def test_leases_that_are_broken(checks: ModuleType) -> None:
    voting = importlib.import_module("voting")

    def faults(*given: tuple[str, float], voted: dict[str, float]) -> list[str]:
        log = voting.Log(
            given=[voting.Given(1, name, at - 0.1, at) for name, at in given],
            voted={(1, name): at for name, at in voted.items()},
        )
        log.seconds["next"] = [0.1]
        return list(checks.broken_leases(log, 10.0, 1))

    assert faults(("ann", 0.0), ("bob", 11.0), voted={"bob": 12.0}) == []  # ann left
    assert len(faults(("ann", 0.0), ("bob", 9.0), voted={})) == 1
    assert len(faults(("ann", 0.0), ("bob", 99.0), voted={"ann": 5.0})) == 1
    # ann comes back, and her late vote is stored although bob has the item.
    assert len(faults(("ann", 0.0), ("bob", 11.0), voted={"ann": 13.0})) == 1
    assert faults(("ann", 0.0), ("bob", 11.0), voted={"ann": 22.0}) == []  # bob left too
