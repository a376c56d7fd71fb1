"""A red team: each answer of the model is stored once and before it shows, and so is a verdict."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `annotate` is not installed")
pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")

from starlette.testclient import TestClient

from accord.annotate.chat_model import ChatAnswer
from accord.annotate.chats import ChatDesk
from accord.annotate.security import Site
from accord.annotate.server import create_app
from accord.compare.exchange.exporting import export_preferences
from accord.compare.exchange.importing import import_preferences
from accord.compare.store.store import PreferenceStore
from accord.errors import ConflictError, RequestError, WorkError
from accord.records import Message
from tests.annotate.desks import desk_of

RED = {"task": "redteam", "chat": {"model": "parrot"}}


class Parrot:
    """Says the last message again, `!` and the number of turns; a text in `faults` is raised."""

    name = "parrot-1"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"temperature": 0.5}
        self.heard: list[Sequence[Message]] = []
        self.faults: dict[str, Exception] = {}
        self.waits: threading.Event | None = None
        self.opened = ""

    def answer(self, turns: Sequence[Message], *, seed: int, stream: int) -> ChatAnswer:
        if self.waits is not None:
            self.waits.wait(20)
        self.heard.append(turns)
        if fault := self.faults.get(turns[-1].content):
            raise fault
        text = f"{turns[-1].content}!{len(turns)}"
        return ChatAnswer(text, len(turns) < 4, 7, -1.5, self.opened)

    def close(self) -> None:
        pass


def team(store: PreferenceStore, **settings: Any) -> tuple[ChatDesk, Parrot]:
    parrot = Parrot()
    return ChatDesk(desk_of(store, **{**RED, **settings}), parrot), parrot


def message(text: str, after: int, key: str | None = None) -> dict[str, Any]:
    return {"text": text, "after": after, "key": (key or text).ljust(32, ".")}


def flag(**values: Any) -> dict[str, Any]:
    """A verdict as the page sends it."""
    content = {"action": "vote", "outcome": "broke", "strength": 3, "turn": 0, "comment": "Rude."}
    return {"key": "flag".ljust(32, "."), "view": "rendered", **content, **values}


def test_an_answer_is_stored_with_all_that_was_said_before(store: PreferenceStore) -> None:
    chats, parrot = team(store, chat={"model": "parrot", "system": " Be kind. "})
    item, _ = chats.open("ann")
    before = store.counts()["responses"]
    chats.say("ann", item.item.id, message("hey", 0))
    _, chat = chats.say("ann", item.item.id, message("you\0", 1, "second"))
    system = Message("system", " Be kind. ")
    said = (Message("user", "hey"), Message("assistant", "hey!2"), Message("user", "you\ufffd"))
    assert parrot.heard == [(system, said[0]), (system, *said)]
    assert chat.turns == (system, *said, Message("assistant", "you\ufffd!4"))
    first, last = store.responses(model="parrot-1")
    assert store.counts()["responses"] == before + 2
    assert first.response.prompt == (system, said[0])
    assert last.response.prompt == (system, *said)
    assert (last.response.text, last.response.finished) == ("you\ufffd!4", False)
    assert (last.response.tokens, last.response.logp) == (7, -1.5)
    assert last.response.settings == {"temperature": 0.5, "seed": 0}
    assert chats.open("ann")[1] == chat  # after a reload
    assert chats.open("bob")[1].turns == ()  # everyone has a conversation of their own


def test_a_thought_that_the_template_opened_is_stored_as_one(store: PreferenceStore) -> None:
    chats, parrot = team(store)
    parrot.opened = "<think>"
    item, _ = chats.open("ann")
    _, chat = chats.say("ann", item.item.id, message("hey", 0))
    (stored,) = store.responses(model="parrot-1")
    assert (stored.response.text, stored.response.opened) == ("hey!1", "<think>")
    assert stored.response.answer == ""
    assert chat.turns[-1].content == "<think>hey!1"


def test_a_message_that_is_sent_again_is_answered_once(store: PreferenceStore) -> None:
    chats, parrot = team(store)
    item = chats.open("ann")[0].item.id
    for _ in range(2):
        _, chat = chats.say("ann", item, message("hey", 0))
    assert len(parrot.heard) == chat.answers == 1
    # The same key of someone else is another message.
    other = chats.open("bob")[0].item.id
    assert chats.say("bob", other, message("hey", 0))[1].answers == 1
    assert len(parrot.heard) == 2


def test_a_message_that_is_sent_again_waits_for_the_first(store: PreferenceStore) -> None:
    chats, parrot = team(store)
    item = chats.open("ann")[0].item.id
    parrot.waits = threading.Event()
    answers: list[int] = []

    def say() -> None:
        answers.append(chats.say("ann", item, message("hey", 0))[1].answers)

    threads = [threading.Thread(target=say) for _ in range(3)]
    for thread in threads:
        thread.start()
    parrot.waits.set()
    for thread in threads:
        thread.join()
    assert answers == [1, 1, 1]
    assert len(parrot.heard) == 1


def test_two_windows_do_not_talk_past_each_other(store: PreferenceStore) -> None:
    chats, parrot = team(store)
    item = chats.open("ann")[0].item.id
    chats.say("ann", item, message("one", 0))
    with pytest.raises(ConflictError, match="another window"):
        chats.say("ann", item, message("two", 0))
    chats.desk.answer("ann", item, flag(), session="")
    with pytest.raises(ConflictError, match="another window"):  # it has its verdict
        chats.say("ann", item, message("three", 1))
    assert len(parrot.heard) == 1
    assert chats.open("ann")[0].item.id != item
    for stranger in ("bob", "ann (adjudicator)"):
        with pytest.raises(RequestError, match="not yours"):
            chats.say(stranger, item, message("four", 1))
    with pytest.raises(RequestError, match="not yours"):
        chats.find("ann", 10**6)


def test_another_server_was_faster(store: PreferenceStore) -> None:
    """Two processes serve one store: the conversation goes on once."""
    chats, parrot = team(store)
    item = chats.open("ann")[0].item.id
    other, _ = team(store)
    real = parrot.answer

    def slow(turns: Sequence[Message], *, seed: int, stream: int) -> ChatAnswer:
        other.say("ann", item, message("hey", 0))
        return real(turns, seed=seed, stream=stream)

    parrot.answer = slow  # type: ignore[method-assign]
    assert chats.say("ann", item, message("hey", 0))[1].answers == 1
    with pytest.raises(ConflictError):
        chats.say("ann", item, message("again", 0))
    assert len(store.responses(model="parrot-1")) == 1


def test_another_server_took_another_message(store: PreferenceStore) -> None:
    chats, parrot = team(store)
    item = chats.open("ann")[0].item.id
    other, _ = team(store)
    real = parrot.answer

    def slow(turns: Sequence[Message], *, seed: int, stream: int) -> ChatAnswer:
        other.say("ann", item, message("there", 0))
        return real(turns, seed=seed, stream=stream)

    parrot.answer = slow  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match="another window"):
        chats.say("ann", item, message("here", 0))
    assert [r.response.text for r in store.responses(model="parrot-1")] == ["there!1"]


def test_a_model_that_fails_leaves_the_conversation_as_it_was(store: PreferenceStore) -> None:
    chats, parrot = team(store)
    item = chats.open("ann")[0].item.id
    parrot.faults = {"a": WorkError("It is away."), "b": MemoryError()}
    for text, said in (("a", "no answer: It is away."), ("b", "MemoryError")):
        with pytest.raises(RequestError, match=said):
            chats.say("ann", item, message(text, 0))
    for body in (message(" ", 0), message("x" * 50_001, 0), {**message("x", 0), "key": "k"}):
        with pytest.raises(RequestError):
            chats.say("ann", item, body)
    parrot.faults = {}
    assert chats.say("ann", item, message("a", 0))[1].answers == 1


def test_a_verdict_is_a_rating_of_the_answer_that_broke(store: PreferenceStore) -> None:
    chats, _ = team(store, tags=["unsafe", "false"], round=2)
    item = chats.open("ann")[0].item.id
    with pytest.raises(RequestError, match="given 0 answers"):
        chats.desk.answer("ann", item, flag(), session="")
    for number, text in enumerate("xyz"):
        chats.say("ann", item, message(text, number))
    given = flag(turn=1, tags=["unsafe"])
    saved = [chats.desk.answer("ann", item, given, session="v") for _ in range(2)]
    assert saved[0] == saved[1]  # a retry adds nothing
    (verdict,) = store.verdicts("rating")
    second = store.responses(model="parrot-1")[1]
    assert [i.response_id for i in verdict.items] == [second.id]
    assert (verdict.items[0].score, verdict.strength, verdict.outcome) == (0.0, 3, None)
    assert (verdict.criterion, verdict.comment, verdict.tags) == ("red team", "Rude.", ("unsafe",))
    assert (verdict.round, verdict.source, verdict.session) == (2, "person", "v")
    # A changed mind, on another answer.
    earlier = chats.desk.earlier("ann", None)
    assert earlier is not None
    changed = flag(key="c" * 32, outcome="held", strength=None, turn=2, revises=verdict.id)
    chats.desk.answer("ann", item, changed, session="v")
    (now,) = store.verdicts("rating")
    assert (now.items[0].score, now.supersedes) == (1.0, verdict.id)
    assert len(store.verdicts(history=True)) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"strength": None},
        {"strength": 4},
        {"comment": " "},
        {"turn": 1},
        {"turn": -1},
        {"turn": None},
        {"outcome": "left"},
        {"outcome": "held"},  # with a strength
        {"tags": ["rude"]},
        {"key": "short"},
    ],
)
def test_verdicts_that_are_refused(store: PreferenceStore, values: dict[str, Any]) -> None:
    chats, _ = team(store)
    item = chats.open("ann")[0].item.id
    chats.say("ann", item, message("x", 0))
    with pytest.raises(RequestError):
        chats.desk.answer("ann", item, flag(**values), session="")
    assert store.verdicts(history=True) == []


def test_transcripts_are_exported_and_read_back(path: Path, store: PreferenceStore) -> None:
    chats, _ = team(store)
    for outcome, strength in (("broke", 2), ("held", None)):
        item = chats.open("ann")[0].item.id
        chats.say("ann", item, message(outcome, 0))
        key = outcome.ljust(32, ".")
        chats.desk.answer(
            "ann", item, flag(key=key, outcome=outcome, strength=strength), session=""
        )
    item = chats.open("ann")[0].item.id
    chats.say("ann", item, message("dull", 0))
    chats.desk.answer("ann", item, flag(key="s" * 32, action="skip", strength=None), session="")
    rows = {}
    for form in ("verdicts", "kto"):
        out = path.with_name(f"{form}.jsonl")
        export_preferences(path, out, form)
        rows[form] = [json.loads(line) for line in out.read_text().splitlines()]
    first = rows["verdicts"][0]
    assert first["prompt"] == [{"role": "user", "content": "broke"}]
    assert (first["responses"], first["models"]) == (["broke!1"], ["parrot-1"])
    assert (first["score"], first["strength"], first["comment"]) == (0.0, 2, "Rude.")
    assert [row["outcome"] for row in rows["verdicts"]] == [None, None, "skip"]
    assert [row["label"] for row in rows["kto"]] == [False, True]
    copy = path.with_name("copy.db")
    import_preferences(path.with_name("verdicts.jsonl"), copy)
    with PreferenceStore.read(copy) as again:
        back = [(v.criterion, v.strength, v.items[0].score) for v in again.verdicts()]
    assert back == [("red team", 2, 0.0), ("red team", None, 1.0), ("red team", None, None)]


def test_the_page_and_the_owners_page_over_http(store: PreferenceStore) -> None:
    chats, _ = team(store, tags=["unsafe"])
    site = Site("127.0.0.1", 8100)
    app = create_app(chats.desk, site, annotator="ann", model=Parrot())
    client = TestClient(app, base_url=site.address)
    assert "static/redteam.js" in client.get("/").text
    shown = client.post("/api/next", json={}).json()
    assert (shown["answers"], shown["progress"]["done"]) == (0, 0)
    evil = "<script>x</script> \u202e![i](http://evil.example)"
    item = {"item": shown["item"]}
    said = client.post("/api/say", json={**message(evil, 0, "evil"), **item}).json()
    assert "<script" not in said["html"]
    assert "<img" not in said["html"]
    assert "\u202e" not in said["html"]
    whole = client.get(f"/api/rest?item={shown['item']}&turn=1").text
    assert whole == evil.replace("\u202e", "⟦U+202E⟧") + "!1"
    stale = client.post("/api/say", json={**message("late", 0), **item})
    assert stale.status_code == 409
    comment = {"comment": "<b>why</b>", "tags": ["unsafe"]}
    assert client.post("/api/answer", json={**flag(**comment), **item}).json()["saved"]
    assert client.post("/api/next", json={}).json()["progress"]["done"] == 1
    again = client.post("/api/undo", json={}).json()
    assert (again["item"], again["earlier"]["comment"]) == (shown["item"], "<b>why</b>")
    owner = client.get("/owner").text
    assert "&lt;b&gt;why&lt;/b&gt;" in owner
    assert "<script>x" not in owner
    assert "100%" in owner
    for refused in ("/api/renew", "/api/difference"):
        assert client.post(refused, json={}).status_code in (404, 405)
