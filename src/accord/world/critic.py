"""The embedded world's critic and reviser: rules in place of a language model, for principles of
the constitutions that come with accord.

The world's models are far too small to criticise in prose. A rule looks at one fault that its
principle names, and mends this fault alone. It sees no more of the true reward than that, misses a
share of the faults, and takes a share of the harmless requests that contain a dangerous word for
harmful ones, as language models do (over-refusal).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from accord.records import Prompt
from accord.world.demonstrations import plain_answer
from accord.world.grammar import FILLER, REFUSAL
from accord.world.language import split_sentences, split_words
from accord.world.reward import flatters, is_refusal
from accord.world.tasks import Task, parse_task

NO_ISSUE = "No issue."


@dataclass(frozen=True, slots=True)
class _Case:
    """A response under examination. `alarm`: the critic takes a harmless request for harmful."""

    task: Task
    response: str
    alarm: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    """What is wrong with a response, "" if nothing; and the response without it."""

    find: Callable[[_Case], str]
    mend: Callable[[_Case, random.Random], str]


def known_principles() -> list[str]:
    """The ids of the principles that the rules know."""
    return list(_RULES)


def criticise(
    principle: str,
    prompt: Prompt,
    response: str,
    *,
    misses: float,
    false_alarms: float,
    rng: random.Random,
) -> str:
    """The critique of a response by the principle `constitution/id`, or NO_ISSUE.

    Raises KeyError for a principle without a rule, DataError for a prompt that is not the world's.
    """
    rule = _RULES[principle]
    case = _case(prompt, response, false_alarms, rng)
    overlooked = rng.random() < misses
    return NO_ISSUE if overlooked else rule.find(case) or NO_ISSUE


def revise(principle: str, prompt: Prompt, response: str, *, rng: random.Random) -> str:
    """The response without the fault that the principle's critique found. Raises as `criticise`."""
    return _RULES[principle].mend(_case(prompt, response, 0.0, rng), rng)


def _case(prompt: Prompt, response: str, false_alarms: float, rng: random.Random) -> _Case:
    task = parse_task(prompt)
    alarm = rng.random() < false_alarms
    return _Case(task, response, alarm and task.kind == "safe")


def _find_harm(case: _Case) -> str:
    if is_refusal(case.response):
        return ""
    if case.task.must_refuse:
        return f"The answer helps to hurt the {case.task.slots['target']}."
    if case.alarm:
        return f"The answer explains how to {case.task.slots['verb']}, which is violent."
    return ""


def _refuse(case: _Case, rng: random.Random) -> str:
    return plain_answer(REFUSAL, {}, rng)


def _find_needless_refusal(case: _Case) -> str:
    needless = not case.task.must_refuse and is_refusal(case.response)
    return "Nobody is hurt by this request, and the answer refuses it." if needless else ""


def _find_missing(case: _Case) -> str:
    """What of the request the answer leaves out; a refusal leaves out nothing."""
    family, slots = case.task.family, case.task.slots
    if family is None or is_refusal(case.response):
        return ""
    words = set(split_words(case.response))
    missing = [slots[slot] for slot in family.required if slots[slot].lower() not in words]
    return f"Not mentioned: {', '.join(missing)}." if missing else ""


def _answer(case: _Case, rng: random.Random) -> str:
    """A plain answer, with the sentences of the response that fit any answer of the kind."""
    family = case.task.family
    if family is None:
        return case.response
    fragments = (*family.warmth, *family.closings)
    fitting = {fragment.format(**case.task.slots) for fragment in fragments}
    retained = [s for s in split_sentences(case.response) if s in fitting]
    return " ".join([plain_answer(family, case.task.slots, rng), *dict.fromkeys(retained)])


def _superfluous(response: str) -> list[str]:
    """The sentences that say nothing or were said before."""
    seen: set[str] = set()
    superfluous = []
    for sentence in split_sentences(response):
        if sentence in FILLER or sentence in seen:
            superfluous.append(sentence)
        seen.add(sentence)
    return superfluous


def _find_length(case: _Case) -> str:
    count = len(_superfluous(case.response))
    return f"{count} of its sentences could be left out." if count else ""


def _shorten(case: _Case, rng: random.Random) -> str:
    sentences = dict.fromkeys(split_sentences(case.response))
    return " ".join(s for s in sentences if s not in FILLER)


def _find_flattery(case: _Case) -> str:
    return "It flatters the one who asks." if flatters(case.response) else ""


def _remove_flattery(case: _Case, rng: random.Random) -> str:
    return " ".join(s for s in split_sentences(case.response) if not flatters(s))


_NEEDLESS = _Rule(_find_needless_refusal, _answer)
_RULES: Mapping[str, _Rule] = {
    "harmless/no-violence": _Rule(_find_harm, _refuse),
    "harmless/no-needless-refusal": _NEEDLESS,
    "helpful/no-needless-refusal": _NEEDLESS,
    "helpful/answers-the-request": _Rule(_find_missing, _answer),
    "helpful/right-length": _Rule(_find_length, _shorten),
    "honest/no-flattery": _Rule(_find_flattery, _remove_flattery),
}
