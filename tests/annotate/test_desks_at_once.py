"""Several servers on one queue at the same time, on SQLite and on PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from accord.annotate.chat_model import ChatAnswer
from accord.annotate.chats import ChatDesk
from accord.annotate.desk import Desk
from accord.annotate.start import invite_person
from accord.compare.store.connection import transaction
from accord.compare.store.people import enter, person_of
from accord.compare.store.store import PreferenceStore
from accord.errors import ConflictError
from tests.annotate.desks import Clock, body, desk_of, fill
from tests.annotate.test_desk import counted
from tests.postgresql import PostgreSql

PROMPTS, SERVERS, PEOPLE = 8, 3, 6


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "busy.db")
    server: PostgreSql = request.getfixturevalue("postgresql")
    return server.create()


def at_once(work: Callable[[int], None], number: int) -> None:
    """Run `work(0)`, `work(1)`, … in threads. What one of them raises is raised."""
    faults: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


def test_votes_and_late_answers(url: str) -> None:
    """Every answer is sent twice. Time jumps while people judge, so that leases end and items go to
    others: whoever is late is refused, or counts where there is room."""
    fill(url, prompts=PROMPTS)
    clock = Clock()
    stores = [PreferenceStore.open(url) for _ in range(SERVERS)]
    desks = [desk_of(store, clock, overlap=2, lease_minutes=1) for store in stores]
    acknowledged: list[int] = []
    refused: list[str] = []

    def judge(index: int) -> None:
        desk, name, rng = desks[index % SERVERS], f"person {index}", random.Random(index)
        number = 0
        while (assignment := desk.next(name)) is not None:
            number += 1
            if rng.random() < 0.3:
                clock.now += 61
            answer = body(f"{name} {number}")
            for attempt in range(2):
                try:
                    saved = desk.answer(name, assignment.item.id, answer, session="")
                except ConflictError:
                    refused.append(name)
                    assert attempt == 0
                    break
            else:
                acknowledged.append(saved.verdict_id or 0)

    try:
        at_once(judge, PEOPLE)
        verdicts = stores[0].verdicts(history=True)
        assert sorted(acknowledged) == [v.id for v in verdicts]
        assert counted(stores[0]) == [2] * PROMPTS
        on_items = Counter(frozenset(i.response_id for i in v.items) for v in verdicts)
        assert set(on_items.values()) == {2}
        assert all(v.supersedes is None for v in verdicts)
    finally:
        for store in stores:
            store.close()


def test_a_late_answer_of_someone_whose_item_went_to_another(url: str) -> None:
    fill(url, prompts=1)
    with PreferenceStore.open(url) as one, PreferenceStore.open(url) as two:
        clock = Clock()
        first, second = (desk_of(store, clock, lease_minutes=1) for store in (one, two))
        item = first.next("ann")
        assert item is not None
        assert second.next("bob") is None  # it is ann's
        clock.now += 61
        taken = second.next("bob")
        assert taken is not None
        with pytest.raises(ConflictError, match="Someone else"):
            first.answer("ann", item.item.id, body("late"), session="")
        clock.now += 61  # now bob is late too, and the first to answer has it
        first.answer("ann", item.item.id, body("back"), session="")
        with pytest.raises(ConflictError, match="Someone else"):
            second.answer("bob", item.item.id, body("late"), session="")
        assert [v.annotator for v in one.verdicts(history=True)] == ["ann"]
        assert counted(two) == [1]


def test_servers_that_start_at_once_add_each_item_once(url: str) -> None:
    fill(url, prompts=PROMPTS)
    desks: list[Desk] = []
    with PreferenceStore.open(url) as one, PreferenceStore.open(url) as two:
        at_once(lambda i: desks.append(desk_of((one, two)[i])), 2)
        assert desks[0].queue == desks[1].queue
        assert [desk.count_items() for desk in desks] == [PROMPTS, PROMPTS]
        token = invite_person(one, "ann", "annotator")
        with transaction(two.engine, two.path, writes=True) as connection:
            secret = enter(connection, token)
            assert secret is not None
            person = person_of(connection, secret)
            assert person is not None
            assert person.name == "ann"
            assert enter(connection, token + "x") is None


def test_a_message_that_two_servers_are_given(url: str) -> None:
    """Such as after a lost connection, behind a proxy: it is answered once."""

    class Echo:
        def __init__(self) -> None:
            self.name = "echo-1"
            self.settings: dict[str, object] = {}

        def answer(self, turns: object, *, seed: int, stream: int) -> ChatAnswer:
            return ChatAnswer("yes", True)

        def close(self) -> None:
            pass

    with PreferenceStore.open(url) as one, PreferenceStore.open(url) as two:
        desk = desk_of(one, task="redteam", chat={"model": "m"})
        teams = [ChatDesk(replace(desk, store=store), Echo()) for store in (one, two)]
        item = teams[0].open("ann")[0].item.id
        message = {"text": "hi", "after": 0, "key": "k" * 32}
        at_once(lambda i: teams[i].say("ann", item, message) and None, 2)
        assert [r.response.text for r in one.responses()] == ["yes"]
        assert teams[1].find("ann", item)[1].answers == 1
