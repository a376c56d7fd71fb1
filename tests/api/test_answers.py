"""accord.sample, score, compare and rate."""

from __future__ import annotations

from typing import Any

import pytest

import accord
from accord.errors import DataError, SettingsError
from accord.records import Message
from tests.lm.toys import save_toy

PROMPTS = ["say", "ask"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sample") / "model"
    save_toy(folder)
    return str(folder)


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(text)) for text in responses]


def longer(prompt: Any, a: str, b: str) -> Any:
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"


def test_samples_are_those_of_the_seed_and_are_scored(model: str) -> None:
    once, again, other = (
        accord.sample(model, PROMPTS, num_responses=3, max_new_tokens=5, seed=s, reward=length)
        for s in (1, 1, 2)
    )
    assert once.to_rows() == again.to_rows() != other.to_rows()
    for row in once:
        assert row.scores == tuple(float(len(text)) for text in row.responses)
        assert row.best == max(row.responses, key=len)
    assert repr(once).startswith("Answers(")


def test_prompts_may_be_conversations_rows_or_records(model: str) -> None:
    turns = [{"role": "user", "content": "say"}]
    by_form = [
        accord.sample(model, [prompt], max_new_tokens=5)[0].responses
        for prompt in (turns, (Message("user", "say"),), {"prompt": turns})
    ]
    assert by_form[0] == by_form[1] == by_form[2]


def test_a_prompt_that_does_not_fit_is_an_error(model: str) -> None:
    with pytest.raises(DataError, match="1 of 2 prompts can't be used"):
        accord.sample(model, ["say", "a " * 500], max_new_tokens=5)
    with pytest.raises(SettingsError, match="leaves no room for a prompt"):
        accord.sample(model, ["say"], max_new_tokens=128)


def test_score_needs_a_prompt_for_each_response(model: str) -> None:
    assert accord.score(length, ["a", "b"], ["x", "xyz"]) == [1.0, 3.0]
    with pytest.raises(DataError, match="2 prompts and 1 responses"):
        accord.score(length, ["a", "b"], ["x"])
    table = {"kind": "contains", "text": "sea"}
    assert accord.score([length, table], ["a"], ["sea"]) == [4.0]
    with pytest.raises(SettingsError, match=r"`rewards\.0\.txet` is not a key"):
        accord.score({"kind": "contains", "txet": "sea"}, ["a"], ["sea"])


def test_battles_are_counted_and_rated(model: str) -> None:
    a = accord.sample(model, PROMPTS, num_responses=2, max_new_tokens=8, seed=1)
    b = accord.sample(model, PROMPTS, num_responses=2, max_new_tokens=8, seed=2)
    with pytest.raises(DataError, match="Both models are called"):
        accord.compare(a, b, judge=longer)
    battles = accord.compare(a, b, judge=longer, names=("a", "b"))
    by_reward = accord.compare(a, b, judge=[length], names=("a", "b"))
    assert list(battles) == list(by_reward)  # the longer wins in both
    wins = sum({"a": 1.0, "tie": 0.5}.get(battle.outcome, 0.0) for battle in battles)
    assert battles.win_rate.mean == pytest.approx(wins / 4)
    ratings = accord.rate(battles, anchor="b", prior=1, bootstrap=20)
    assert {m.model for m in ratings.models} == {"a", "b"}
    rows = [{"model_a": "x", "model_b": "y", "winner": w} for w in ("model_a", "model_b", "tie")]
    assert [m.rating for m in accord.rate(rows, bootstrap=10).models] == pytest.approx([1000.0] * 2)


def test_a_verdict_that_is_none_is_an_error(model: str) -> None:
    a = accord.sample(model, PROMPTS, max_new_tokens=4, seed=1)
    b = accord.sample(model, PROMPTS, max_new_tokens=4, seed=2)
    with pytest.raises(DataError, match="returned 'first'"):
        accord.compare(a, b, judge=lambda p, x, y: "first", names=("a", "b"))
    elsewhere = accord.sample(model, ["go"], max_new_tokens=4)
    with pytest.raises(DataError, match="not answered the same prompts"):
        accord.compare(a, elsewhere, judge=longer, names=("a", "b"))


def test_the_package_compare_is_callable_however_it_was_imported() -> None:
    import accord.compare.rewards.reward

    assert callable(accord.compare)
    assert accord.compare.rewards.reward.PromptResponse
