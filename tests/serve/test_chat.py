"""A chat, driven by lines: answers, commands, Ctrl-C, two models blind, votes in the store."""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accord.compare.store.store import PreferenceStore
from accord.records import Message
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer
from accord.serve.chat.conversation import Manner, Side
from accord.serve.chat.screen import Screen
from accord.serve.chat.session import ChatSession
from accord.serve.chat.votes import Ballot
from accord.serve.engine import EngineRequest, Event
from accord.serve.errors import ApiError
from tests.serve.best_of import SCORES, by_words
from tests.serve.fake_engine import FakeEngine

ESCAPE = "\x1b]0;owned\x07\x1b[2Jred\u202eder"


def echo(request: EngineRequest) -> list[str]:
    """Says what it was asked, and how many turns there are."""
    turns = request.prompt
    assert isinstance(turns, tuple)
    last = turns[-1]
    assert isinstance(last, Message)
    return [f"{last.content}! {len(turns)}"] * request.sampling.num_responses


def typed(*lines: str | type[BaseException]) -> Any:
    remaining = iter(lines)
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        line = next(remaining, EOFError)
        if isinstance(line, str):
            return line
        raise line

    read.prompts = prompts  # type: ignore[attr-defined]
    return read


def chat(
    engines: Iterable[Any], *lines: str | type[BaseException], **more: Any
) -> tuple[str, ChatSession]:
    names = ("left", "right")
    sides = [
        Side(name, engine, isinstance(engine, BestOfEngine))
        for name, engine in zip(names, engines, strict=False)
    ]
    out = io.StringIO()
    console = Console(file=out, width=100, color_system=None)
    manner = more.pop("manner", Manner())
    session = ChatSession(sides, Screen(console), typed(*lines), manner=manner, **more)
    session.run()
    return out.getvalue(), session


def test_a_conversation_is_continued() -> None:
    engine = FakeEngine(echo)
    out, session = chat([engine], "hi", "more", "", "/exit", "never")
    assert "hi! 1" in out
    assert "more! 3" in out
    assert "never" not in out
    assert [m.content for m in session.conversation.turns] == ["hi", "hi! 1", "more", "more! 3"]
    assert engine.asked[1].prompt == (
        Message("user", "hi"),
        Message("assistant", "hi! 1"),
        Message("user", "more"),
    )


def test_what_a_model_writes_can_t_command_the_terminal(tmp_path: Path) -> None:
    out, _ = chat([FakeEngine(lambda _: [ESCAPE])], "hi", "/history", "/exit")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("⟦U+001B⟧") == 4  # the answer, and the history
    two = [FakeEngine(lambda _: [ESCAPE]), FakeEngine(lambda _: [ESCAPE])]
    ballot = Ballot(str(tmp_path / "votes.db"), "ada", ("left", "right"))
    out, _ = chat(two, "hi", "s", ballot=ballot)
    assert "\x1b" not in out


def test_commands_change_how_answers_are_drawn(tmp_path: Path) -> None:
    engine = FakeEngine(echo)
    saved = tmp_path / "talk.jsonl"
    lines = ["/temperature 0.3", "/seed 5", "/max_tokens 9", "one", "two", "/retry", "/history"]
    more = [f"/save {saved}", f"/save {saved}", "/clear", "/system Be kind.", "three", "/seed off"]
    out, _ = chat([engine], *lines, *more, "four\\", "five", "/help", "/nothing", "/seed x")
    asked = engine.asked
    assert [a.sampling.temperature for a in asked] == [0.3] * 5
    assert [a.max_tokens for a in asked] == [9] * 5
    # The seed moves on with each turn, so that two turns are not drawn alike; /clear begins again.
    assert [a.seed for a in asked] == [5, 6, 7, 5, None]
    assert [len(a.prompt) for a in asked] == [1, 3, 3, 2, 4]
    assert asked[3].prompt[0] == Message("system", "Be kind.")
    assert asked[4].prompt[-1] == Message("user", "four\nfive")
    row = json.loads(saved.read_text())
    assert [m["content"] for m in row["messages"]] == ["one", "one! 1", "two", "two! 3"]
    assert "exists already" in out
    assert "assistant: one! 1" in out
    assert "/best N" in out
    assert "There is no /nothing" in out
    assert "/seed needs a whole number" in out


def test_best_of_n_needs_a_reward_and_shows_the_scores() -> None:
    out, _ = chat([FakeEngine(echo)], "/best 8")
    assert "--reward" in out
    fake = FakeEngine(lambda r: ["a a", "b b", "c"][: r.sampling.num_responses])
    best = BestOfEngine(fake, Scorer(by_words(SCORES)), BestOfOptions(limit=256))
    out, session = chat([best], "hi", "/best 3", "hi", "/temperature 0", "/best x")
    assert session.conversation.turns[1].content == "a a"
    assert session.conversation.turns[3].content == "b b"
    assert "Best of 3: 3; the others from 1, mean 2." in out
    assert "Set /best 1 first" in out
    assert [a.sampling.num_responses for a in fake.asked] == [1, 3]


class Interrupted(FakeEngine):
    """Ctrl-C is pressed while it answers."""

    async def stream(self, request: EngineRequest) -> AsyncGenerator[Event, None]:
        count = 0
        async for event in super().stream(request):
            count += 1
            yield event
            if count == 3 and len(self.asked) == 1:
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests were started in the background of a
    shell, which makes a process ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_stops_an_answer_and_not_the_chat() -> None:
    engine = Interrupted(lambda r: ["one two " + "x " * 50], delay=0.001)
    out, session = chat([engine], "hi", KeyboardInterrupt, "more", "/exit")
    assert "Stopped." in out
    assert "Ctrl-D or /exit ends the chat" in out
    first = session.conversation.turns[1].content
    assert first.startswith("one two")
    assert len(first) < 60
    assert session.conversation.turns[3].content == "one two " + "x " * 50
    assert engine.open == 0


def test_an_error_is_shown_and_the_message_is_not_part_of_the_conversation() -> None:
    engine = FakeEngine(echo)
    engine.error = ApiError(400, "The context is \x1b[31mtoo long.")
    out, session = chat([engine], "hi")
    assert "too long" in out
    assert "\x1b" not in out
    assert session.conversation.turns == []


def two(tmp_path: Path, *lines: Any, seed: int = 0) -> tuple[str, ChatSession]:
    engines = [FakeEngine(lambda _: ["left says"]), FakeEngine(lambda _: ["right says"])]
    ballot = Ballot(str(tmp_path / "votes.db"), "ada", ("left", "right"))
    return chat(engines, *lines, ballot=ballot, rng=random.Random(seed))


def test_two_models_are_compared_blind_and_votes_are_stored(tmp_path: Path) -> None:
    lines = ["hi", "1", "hi", "2", "hi", "x", "tie", "hi", "both bad", "hi", "s", "/votes", "/exit"]
    out, session = two(tmp_path, *lines)
    assert "Give 1, 2, t" in out
    with PreferenceStore.read(tmp_path / "votes.db") as store:
        verdicts = store.verdicts()
        responses = {r.id: r.response for r in store.responses()}
    assert len(verdicts) == 4
    shown = [line[4:] for line in out.splitlines() if line.startswith("[1]")]
    assert set(shown) == {"left says", "right says"}  # the order is drawn
    for given, first, choice in zip(verdicts, shown, ["1", "2"], strict=False):
        assert (given.outcome == ("a" if first == "left says" else "b")) == (choice == "1")
        assert (given.annotator, given.source) == ("ada", "person")
        a, b = (item.response_id for item in given.items)
        assert (responses[a].text, responses[b].model) == ("left says", "right")
        assert responses[a].prompt[-1] == Message("user", "hi")
        # The one shown first is at position 0.
        assert [item.shown for item in given.items] == ([0, 1] if first == "left says" else [1, 0])
    assert [v.outcome for v in verdicts[2:]] == ["tie", "both_bad"]
    # The preferred answer continues the conversation.
    assert [session.conversation.turns[i].content for i in (1, 3)] == [
        "left says" if v.outcome == "a" else "right says" for v in verdicts[:2]
    ]
    assert "tie 1, both bad 1" in out
    # Nothing names a model before the votes are asked for.
    assert "left" not in out.partition("Votes:")[0].replace("left says", "")


def test_a_vote_is_for_the_answer_that_was_shown_there(tmp_path: Path) -> None:
    lines = [word for choice in "1212121212" for word in ("hi", choice)]
    out, _ = two(tmp_path, *lines)
    shown = [line[4:] for line in out.splitlines() if line.startswith("[1]")]
    with PreferenceStore.read(tmp_path / "votes.db") as store:
        verdicts = store.verdicts()
    cases = set()
    for given, first, choice in zip(verdicts, shown, "1212121212", strict=True):
        left_first = first == "left says"
        assert given.outcome == ("a" if left_first == (choice == "1") else "b")
        assert [item.shown for item in given.items] == ([0, 1] if left_first else [1, 0])
        cases.add((left_first, choice))
    assert len(cases) == 4  # each vote with each order


def test_what_is_stored_of_an_answer(tmp_path: Path) -> None:
    engines = [FakeEngine(lambda _: ["cut …"]), FakeEngine(lambda _: ["right says"])]
    ballot = Ballot(str(tmp_path / "votes.db"), "ada", ("left", "right"))
    manner = Manner(temperature=0.5, max_tokens=9, seed=4)
    out, _ = chat(engines, "hi", "1", "hi", "2", ballot=ballot, manner=manner)
    assert out.count("is cut at the limit of its length.") == 2
    with PreferenceStore.read(tmp_path / "votes.db") as store:
        stored = [r.response for r in store.responses()]
    # The seed moves on with each turn, so that what is stored draws the answer again.
    asked = [{"temperature": 0.5, "max_tokens": 9, "seed": s, "best_of": 1} for s in (4, 4, 5, 5)]
    assert [r.settings for r in stored] == asked
    assert [r.finished for r in stored] == [False, True, False, True]
    assert [r.tokens for r in stored] == [2, 2, 2, 2]


class Closing(FakeEngine):
    closed = 0

    async def close(self) -> None:
        self.closed += 1


def test_an_answer_that_is_cut_is_said_to_be_and_the_engine_is_closed_at_the_end() -> None:
    engine = Closing(lambda _: ["cut …"])
    out, _ = chat([engine], "hi", "/exit")
    assert "Cut at the limit of its length." in out
    assert engine.closed == 1
    out, _ = chat([Closing(lambda _: ["whole"])], "hi", "/exit")
    assert "Cut at" not in out


def test_the_order_follows_the_seed(tmp_path: Path) -> None:
    def order(seed: int) -> list[str]:
        lines = [word for _ in range(8) for word in ("hi", "s")]
        out, _ = two(tmp_path, *lines, seed=seed)
        return [line for line in out.splitlines() if line.startswith("[1]")]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_the_end_of_the_input_at_a_vote_ends_the_chat(tmp_path: Path) -> None:
    out, _ = two(tmp_path, "hi", "/exit", "never")
    assert "left 0, right 0" in out
    out, _ = two(tmp_path, "hi")
    assert "left 0, right 0" in out


def test_two_answers_stand_side_by_side_in_a_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    sides = [
        Side("left", FakeEngine(lambda _: ["aaa"])),
        Side("right", FakeEngine(lambda _: ["b"])),
    ]
    ballot = Ballot(str(tmp_path / "votes.db"), "ada", ("left", "right"))
    session = ChatSession(sides, Screen(console), typed("hi", "1"), manner=Manner(), ballot=ballot)
    session.run()
    assert any(
        "aaa" in line and "b" in line.replace("aaa", "") for line in out.getvalue().splitlines()
    )


@pytest.mark.parametrize("n", [1, 300])
def test_a_long_answer_is_whole(n: int) -> None:
    out, _ = chat([FakeEngine(lambda _: ["word " * n + "end"])], "hi")
    assert ("word " * n + "end") in out
