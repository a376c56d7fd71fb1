"""Rewards and judges read a response's answer, and never its reasoning."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import Candidates
from accord.compare.rewards.models import model_reward
from accord.compare.rewards.reward import PromptResponse
from accord.lm.load import load_scalar, save_model
from accord.settings.endpoint import EndpointSettings
from tests.compare.reward_sources import PROMPTS, reward_from
from tests.fake_openai import FakeOpenAi, judged_texts, prefers
from tests.lm.toys import save_toy

THOUGHT = "<think>yes yes yes</think>\n\n"


def reward_model(folder: Path) -> str:
    lm = load_scalar(save_toy(folder / "base"), new_head=True, seed=3, heads=2)
    save_model(lm, folder / "model", card="")
    return str(folder / "model")


def test_a_reward_model_scores_the_answer(tmp_path: Path) -> None:
    model = reward_model(tmp_path)
    score = model_reward(load_scalar(model))
    answers = ["a b c d", "yes"]
    expected = score(PROMPTS, answers)
    assert score(PROMPTS, [THOUGHT + answer for answer in answers]) == expected
    assert score(PROMPTS, [f"<think> {answer}" for answer in answers]) != expected
    for settings in ({}, {"combine": "worst"}):
        reward = reward_from({"kind": "reward_model", "model": model, **settings})
        opened = reward.scores(
            PROMPTS, ["x</think>" + answer for answer in answers], opened=["<think>", "<think>\n"]
        )
        assert opened.total == reward.scores(PROMPTS, answers).total


def test_a_judge_is_shown_the_answers() -> None:
    with closing(FakeOpenAi()) as fake:
        fake.answer = prefers(lambda text: min(9, 1 + text.count("yes")))
        judge = AiJudge(EndpointSettings(base_url=fake.url), "m")
        pair = Candidates("p", (THOUGHT + "no", "yes"), (True, True))
        (both,) = judge.both_orders([pair])
        assert (both.forward, both.backward) == (1, 1)
        shown = [judged_texts(body) for body in fake.requests]
        assert {texts["response-A"] for texts in shown} == {"no", "yes"}
        # Equal answers tie, whatever was thought before them, without a question.
        asked = len(fake.requests)
        (both,) = judge.both_orders([Candidates("p", (THOUGHT + "no", "no"), (True, True))])
        assert (both.forward, both.backward, len(fake.requests)) == (None, None, asked)
        rows = [PromptResponse("p", "yes</think>no", opened="<think>")]
        assert judge.scores(rows, lowest=1, highest=9) == [1]
