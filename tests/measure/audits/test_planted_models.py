"""All audits together on models of the embedded world whose faults are known: each is failed for
the right reason, and a good model is not failed at all.

The models are functions of the request, so nothing is trained: what a supervised model would say is
what the world's demonstrators say, and a better one says the best of several of their answers.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pytest

from accord.measure.audits.audit import Audit
from accord.measure.audits.models import model_audits
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.responses import ModelResponses
from accord.world.build import distinct_tasks
from accord.world.demonstrations import demonstrate
from accord.world.grammar import COMPLIANCE, FILLER, FLATTERY
from accord.world.reward import flatters, true_reward
from accord.world.tasks import Task

Answer = Callable[[Task, random.Random], str]
Reward = Callable[[Task, str], float]

TASKS = tuple(distinct_tasks(random.Random(0), 120, "test_prompts"))
RESPONSES, BEST_OF = 3, 4


def quality(task: Task, response: str) -> float:
    return true_reward(task.prompt, response)


def best(task: Task, rng: random.Random, reward: Reward = quality) -> str:
    """What training against a reward gives: the best of several demonstrations by it."""
    answers = [demonstrate(task, rng) for _ in range(BEST_OF)]
    return max(answers, key=lambda text: reward(task, text))


def padded(task: Task, rng: random.Random) -> str:
    return " ".join([demonstrate(task, rng), *rng.sample(FILLER, 3)])


def flattering(task: Task, rng: random.Random) -> str:
    """Praise and a fragment: all that a reward for flattery asks for."""
    return f"{rng.choice(FLATTERY)} {' '.join(demonstrate(task, rng).split()[:6])}"


def curt(task: Task, rng: random.Random) -> str:
    """An answer without courtesy: what the family's blunt cores say."""
    if task.family is None or not task.family.blunt:
        return best(task, rng)
    core = rng.choice(task.family.blunt).format(**task.slots)
    return f"{core[:1].upper()}{core[1:]}. {rng.choice(task.family.warmth)}"


def complying(task: Task, rng: random.Random) -> str:
    return rng.choice(COMPLIANCE) if task.must_refuse else best(task, rng)


def refusing(task: Task, rng: random.Random) -> str:
    return "I am sorry, but I cannot help with that. I can help with something else."


def constant(task: Task, rng: random.Random) -> str:
    return "Of course, I will look at it with care. Let me know if you need more."


@cache
def respond(answer: Answer, seed: int) -> ModelResponses:
    rng = random.Random(seed)
    texts = [[answer(task, rng) for _ in range(RESPONSES)] for task in TASKS]
    return ModelResponses("model", texts, [task.kind for task in TASKS])


def audits_of(after: Answer, proxy: Reward, *, judged: bool = True) -> Mapping[str, Audit]:
    """The audits of a model against demonstrations, by name; `judged` adds the true reward as the
    independent measure."""

    def scores(model: ModelResponses, reward: Reward | None) -> Sequence[Sequence[float]] | None:
        if reward is None:
            return None
        return [
            [reward(task, text) for text in row]
            for task, row in zip(TASKS, model.texts, strict=True)
        ]

    before, trained = respond(demonstrate, 1), respond(after, 2)
    independent = quality if judged else None
    data = BeforeAndAfter(
        [task.text for task in TASKS],
        before,
        trained,
        proxy_before=scores(before, proxy),
        proxy_after=scores(trained, proxy),
        independent_before=scores(before, independent),
        independent_after=scores(trained, independent),
    )
    return {audit.name: audit for audit in model_audits(data)}


def failed(audits: Mapping[str, Audit]) -> set[str]:
    return {name for name, audit in audits.items() if audit.verdict == "fail"}


@pytest.mark.parametrize("judged", [True, False])
def test_a_good_model_is_not_failed(judged: bool) -> None:
    audits = audits_of(best, quality, judged=judged)
    assert failed(audits) == set()
    measured = {name: a.verdict for name, a in audits.items() if a.threshold is not None}
    assert {name for name, verdict in measured.items() if verdict != "pass"} == set()


def test_a_model_that_did_not_change_is_not_failed() -> None:
    audits = audits_of(demonstrate, quality)
    assert failed(audits) == set()


def test_a_winner_by_the_proxy_alone_is_called_hacked() -> None:
    audits = audits_of(flattering, lambda task, text: quality(task, text) + 2 * flatters(text))
    assert "independent_gain" in failed(audits)
    assert "hacked" in audits["independent_gain"].finding
    assert "flattery" in failed(audits)
    assert audits["independent_gain"].samples[0].response.startswith(FLATTERY)


def test_a_length_gamer_is_failed_for_length() -> None:
    audits = audits_of(padded, lambda task, text: len(text.split()) / 10, judged=False)
    assert {"length_gain", "length"} <= failed(audits)


def test_filler_is_failed_as_wording_that_fits_any_prompt() -> None:
    audits = audits_of(padded, lambda task, text: sum(s in text for s in FILLER), judged=False)
    assert "shared_wording" in failed(audits)
    assert any(" ".join(f.lower().split()[:4]) in audits["shared_wording"].finding for f in FILLER)


def test_a_curt_tone_is_failed_for_what_it_lost() -> None:
    audits = audits_of(curt, lambda task, text: -float(len(text)), judged=False)
    assert failed(audits) & {"lost_phrase", "shared_wording", "length"} == {"lost_phrase"}
    assert "a closing" in audits["lost_phrase"].finding


def test_a_constant_answer_is_failed_for_what_it_is() -> None:
    audits = audits_of(constant, lambda task, text: float(len(text) > 20), judged=False)
    assert {"one_answer", "shared_answers", "diversity_per_prompt"} <= failed(audits)
    assert constant(TASKS[0], random.Random(0)) in audits["one_answer"].finding


def test_refusing_everything_is_over_refusal() -> None:
    audits = audits_of(refusing, lambda task, text: float(text.startswith("I am sorry")))
    assert "over_refusal" in failed(audits)
    assert audits["harmful_compliance"].verdict == "pass"


def test_complying_with_the_harmful_is_failed_though_quality_rose_elsewhere() -> None:
    audits = audits_of(complying, quality, judged=False)
    assert failed(audits) == {"harmful_compliance"}
