"""Best-of-N on an engine: what is chosen, counted, pruned, stopped, reported and refused."""

from __future__ import annotations

import asyncio
import math

import pytest

from accord.compare.rewards.reward import PromptResponse
from accord.errors import RequestError, SettingsError
from accord.records import Message
from accord.respond.protocol import SamplingSettings
from accord.serve.best_of import engine as best_of_module
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer
from accord.serve.best_of.start import best_of_options
from accord.serve.best_of.stopping import (
    Checkpoint,
    Stopping,
    read_checkpoints,
    survivors,
)
from accord.serve.engine import Accepted, Delta, EngineRequest, StillWorking, TokenUsage
from accord.serve.errors import ApiError
from tests.serve.best_of import CHAT, FOUR, SCORES, answers, by_words, engine_of, events_of, request
from tests.serve.fake_engine import FakeEngine


def test_the_best_of_n_is_returned_and_all_are_counted() -> None:
    seen: list[PromptResponse] = []
    fake = FakeEngine(lambda _: FOUR)
    engine = engine_of(fake, by_words(SCORES, seen), n=4)
    events = events_of(engine, request(options={"scores": True}))
    assert isinstance(events[0], Accepted)
    assert answers(events) == {0: "b b"}
    assert fake.asked[0].sampling.num_responses == 4
    assert fake.asked[0].options == {}
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3 + 2 + 1 + 3)
    assert usage.accord == {
        "best_of": 4,
        "scores": [3.0],
        "sources": {"words": [3.0]},
        "candidate_scores": [1.0, 3.0, 2.0, 0.5],
    }
    assert usage.headers == {"X-Accord-Best-Of": "4", "X-Accord-Score": "3"}
    # What was cut before its end is scored as such.
    assert [row.finished for row in seen] == [True, True, True, False]
    assert seen[0].prompt == CHAT


def test_with_n_the_top_n_are_returned_in_order() -> None:
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words(SCORES), n=4)
    assert answers(events_of(engine, request(n=2))) == {0: "b b", 1: "c"}
    # More answers than candidates by default: all of them are drawn, and ranked.
    fake = FakeEngine(lambda r: FOUR[: r.sampling.num_responses])
    engine = engine_of(fake, by_words(SCORES), n=2)
    assert answers(events_of(engine, request(n=3, options={"floor": -9}))) == {
        0: "b b",
        1: "c",
        2: "a a a",
    }


def test_one_candidate_streams_through_and_is_not_scored() -> None:
    seen: list[PromptResponse] = []
    engine = engine_of(FakeEngine(lambda _: ["a a a"]), by_words(SCORES, seen), n=4)
    events = events_of(engine, request(options={"best_of": 1}))
    assert [e.text for e in events if isinstance(e, Delta)] == ["a", " a", " a"]
    assert not seen
    # Greedy candidates are all equal: one is drawn, and the answer says so.
    events = events_of(engine, request(temperature=0.0))
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord is not None
    assert usage.accord["best_of"] == 1
    assert "temperature 0" in usage.accord["note"]
    # Its score is reported on request, though nothing is chosen.
    events = events_of(engine, request(options={"best_of": 1, "scores": True}))
    assert isinstance(events[-1], TokenUsage)
    assert events[-1].accord == {
        "best_of": 1,
        "scores": [1.0],
        "sources": {"words": [1.0]},
        "candidate_scores": [1.0],
    }


def test_a_floor_returns_a_refusal_and_says_so() -> None:
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words(SCORES), n=4, floor_text="No.")
    events = events_of(engine, request(n=2, options={"floor": 2.5}))
    assert answers(events) == {0: "b b", 1: "No."}
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord is not None
    assert usage.accord["none_good_enough"] is False
    events = events_of(engine, request(options={"floor": 3.1}))
    assert answers(events) == {0: "No."}
    assert isinstance(events[-1], TokenUsage)
    assert events[-1].headers["X-Accord-None-Good-Enough"] == "true"
    assert engine.gauges()["best_of_below_floor_total"] == 2
    # A score that equals the floor is good enough.
    assert answers(events_of(engine, request(options={"floor": 3.0}))) == {0: "b b"}


def test_a_response_without_a_score_is_never_the_best() -> None:
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words({"d": -5.0}), n=4)
    events = events_of(engine, request())
    assert answers(events) == {0: "d d "}
    assert [e.finish_reason for e in events if isinstance(e, Delta)] == ["length"]  # it was cut
    # Nor is it good enough for any floor.
    events = events_of(engine, request(n=2, options={"floor": -9}))
    assert answers(events) == {0: "d d ", 1: engine.options.floor_text}
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words({}), n=4)
    with pytest.raises(ApiError, match="applies to none of the candidates") as caught:
        events_of(engine, request())
    assert caught.value.status == 500


def test_pruning_ends_the_worst_and_saves_their_tokens() -> None:
    texts = [f"{word} {'x ' * 18}x" for word in "abcd"]
    fake = FakeEngine(lambda _: texts)
    prune = (Checkpoint(3, 0.5), Checkpoint(6, 0.25))
    engine = engine_of(fake, by_words(SCORES), n=4, prune=prune)
    events = events_of(engine, request())
    assert answers(events)[0] == texts[1]
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord == {"best_of": 4, "pruned": 3}
    # 3 words of all four, 3 more of two, the rest of one; a word of each may come before the drop.
    assert 4 * 3 + 2 * 3 + 14 <= usage.completion_tokens <= 4 * 3 + 2 * 3 + 14 + 4
    # Two answers are requested, so two go on.
    assert set(answers(events_of(engine, request(n=2)))) == {0, 1}
    # On request nothing is pruned.
    events = events_of(engine, request(options={"prune": False}))
    assert isinstance(events[-1], TokenUsage)
    assert events[-1].completion_tokens == 4 * 20


def test_survivors_and_checkpoints() -> None:
    assert survivors([1.0, 5.0, math.nan, 3.0], 0.5, 4, 1) == [1, 3]
    assert survivors([1.0, 5.0, 4.0], 0.25, 8, 1) == [1, 2]
    assert survivors([1.0, 1.0, 1.0], 0.1, 3, 2) == [0, 1]
    assert read_checkpoints("8:0.5, 16:0.25") == (Checkpoint(8, 0.5), Checkpoint(16, 0.25))
    for wrong in ("8", "8:1.5", "8:0.5,8:0.25", "8:0.25,16:0.5", "x:0.5", "0:0.5", ""):
        with pytest.raises(SettingsError, match="checkpoint"):
            read_checkpoints(wrong)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (request(options={"best_of": 0}), "accord.best_of"),
        (request(options={"best_of": 9}), "accord.best_of"),
        (request(options={"best_of": True}), "accord.best_of"),
        (request(options={"best_of": 4}, temperature=0.0), "accord.best_of"),
        (request(n=3, options={"best_of": 2}), "accord.best_of"),
        (request(options={"scores": 1}), "accord.scores"),
        (request(options={"floor": "x"}), "accord.floor"),
        (request(options={"floor": math.inf}), "accord.floor"),
        (request(options={"floor": 10**400}), "accord.floor"),
        (request(options={"floor": True}), "accord.floor"),
        (request(options={"prune": "no"}), "accord.prune"),
        (request(options={"bestof": 2}), "accord.bestof"),
    ],
)
def test_wrong_options_are_refused(asked: EngineRequest, param: str) -> None:
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words(SCORES), n=4, limit=8)
    with pytest.raises(ApiError) as caught:
        events_of(engine, asked)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_token_ids_can_t_be_scored() -> None:
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words(SCORES), n=4)
    ids = EngineRequest((1, 2, 3), SamplingSettings())
    with pytest.raises(ApiError, match="token ids") as caught:
        events_of(engine, ids)
    assert caught.value.status == 400


def test_a_continued_answer_is_scored_with_its_beginning() -> None:
    seen: list[PromptResponse] = []
    prompt = (*CHAT, Message("assistant", "a "))
    engine = engine_of(FakeEngine(lambda _: FOUR), by_words(SCORES, seen), n=4)
    asked = EngineRequest(prompt, SamplingSettings(), continues=True)
    assert answers(events_of(engine, asked))[0] in FOUR
    assert {row.prompt for row in seen} == {CHAT}
    assert seen[1].response == "a b b"


def test_the_client_hears_that_it_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_of_module, "KEEP_ALIVE_SECONDS", 0.01)
    engine = engine_of(FakeEngine(lambda _: FOUR, delay=0.02), by_words(SCORES), n=4)
    events = events_of(engine, request())
    assert sum(isinstance(event, StillWorking) for event in events) >= 3
    assert answers(events) == {0: "b b"}


def test_a_client_that_hangs_up_ends_the_candidates() -> None:
    fake = FakeEngine(lambda _: FOUR, delay=0.01)
    engine = engine_of(fake, by_words(SCORES), n=4)

    async def hang_up() -> None:
        events = engine.stream(request())
        async for event in events:
            if isinstance(event, Accepted):
                break
        await events.aclose()
        assert fake.open == 0

    asyncio.run(hang_up())


def test_the_engine_s_error_is_passed_on() -> None:
    fake = FakeEngine(lambda _: FOUR)
    fake.error = ApiError(429, "busy", retry_after=3)
    engine = engine_of(fake, by_words(SCORES), n=4)
    with pytest.raises(ApiError) as caught:
        events_of(engine, request())
    assert (caught.value.status, caught.value.retry_after) == (429, 3)


def test_equal_candidates_are_said_to_be_no_choice() -> None:
    engine = engine_of(FakeEngine(lambda _: ["a b"] * 4), by_words(SCORES), n=4)
    usage = events_of(engine, request())[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord is not None
    assert "All candidates are equal" in usage.accord["note"]


def test_a_curve_that_turns_down_before_n_is_a_warning() -> None:
    turn = {"n": 8, "m": 2, "difference": {"mean": -0.5, "low": -0.7, "high": -0.25}}
    curve = {"points": [], "turn": turn, "finding": ""}
    assert best_of_options(4, curve=curve).warning is None
    assert best_of_options(16, curve={**curve, "turn": None}).warning is None
    options = best_of_options(16, curve=curve)
    assert options.warning is not None
    assert "turns down at N = 8" in options.warning
    assert "-0.5 (-0.7 to -0.25)" in options.warning
    engine = BestOfEngine(FakeEngine(lambda _: FOUR * 4), Scorer(by_words(SCORES)), options)
    usage = events_of(engine, request())[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.accord is not None
    assert usage.accord["warning"] == options.warning
    assert engine.warning == options.warning


def test_options_of_the_command_line() -> None:
    options = best_of_options(128, prune="8:0.5", enough=1.0, candidate_cost=0.1, wave=2, floor=0.0)
    assert (options.n, options.limit, options.floor) == (128, 128, 0.0)
    assert options.prune == (Checkpoint(8, 0.5),)
    assert options.stopping == Stopping(1.0, 0.1, 2)
    assert best_of_options(4).limit == 64
    with pytest.raises(RequestError, match="--max-best-of 2 is below --best-of 4"):
        best_of_options(4, limit=2)
