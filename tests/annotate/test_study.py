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


def test_the_table_tells_what_was_seen(checks: ModuleType) -> None:
    study, voting = importlib.import_module("annotators"), importlib.import_module("voting")
    log = voting.Log(acknowledged={f"key {i}": i for i in range(120)}, left=3, retries=2)
    log.late_stored, log.late_refused = 1, 4
    log.seconds["vote"] = [0.001 * i for i in range(1, 101)]
    options = study._options().parse_args(["--seconds", "60", "--annotators", "7", "--kills", "2"])
    summary = study.summarise(log, options, ["key 1 is lost"]) | {"full_items": 110, "items": 200}
    assert summary["votes_per_second"] == 2
    # Of 1 to 100 ms: between the 50th and the 51st, the 100th of a hundred, and the last.
    latency = {"median": 0.0505, "p99": 0.1, "worst": 0.1}
    assert summary["latency"] == {"vote": pytest.approx(latency)}
    rows = [line.strip("| ").split(" | ") for line in study.markdown(summary).splitlines()[2:]]
    assert dict(rows)["votes acknowledged"] == "120"
    assert dict(rows)["items with exactly 1 votes, of"] == "110, 200"
    assert dict(rows)["late answers stored, refused"] == "1, 4"
    assert dict(rows)["kills of the server, requests sent again"] == "2, 2"
    assert dict(rows)["vote: median, 99%, worst"] == "50 ms, 100 ms, 100 ms"
    assert dict(rows)["lost, doubled or beyond the overlap"] == "1"
    assert dict(rows)["database"] == "SQLite"


def test_a_study_has_a_pair_for_each_item_and_a_token_for_each_person(
    checks: ModuleType, tmp_path: Path
) -> None:
    study = importlib.import_module("annotators")
    tokens = study.fill(str(tmp_path / "s.db"), 3, 5)
    assert list(tokens) == ["person 0", "person 1", "person 2"]
    assert len(set(tokens.values())) == 3
    with PreferenceStore.read(tmp_path / "s.db") as store:
        assert store.counts()["responses"] == 10
        assert store.counts()["prompts"] == 5
