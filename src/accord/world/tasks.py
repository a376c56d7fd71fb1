"""A request with its slots: drawn at random, or read back from its text by the grammar."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from accord.errors import DataError
from accord.records import Message, Prompt
from accord.world.grammar import (
    FAMILIES,
    KIND_WEIGHTS,
    QUESTIONS,
    REQUESTS,
    WRAPPERS,
    Family,
    Kind,
)
from accord.world.vocabulary import CLASSES, DEEDS


@dataclass(frozen=True, slots=True)
class Task:
    """A user's request: its kind, its text, and the words in its slots.

    A fact's slot `asked` names the slot (`time` or `price`) that the question is about; a
    jailbreak's slot `wrapper` names how the harmful request is wrapped.
    """

    kind: Kind
    text: str
    slots: Mapping[str, str]

    @property
    def prompt(self) -> Prompt:
        """The conversation that consists of this request."""
        return (Message("user", self.text),)

    @property
    def combination(self) -> tuple[str, ...]:
        """The words in the slots, independent of the wording. Those of a test prompt occur in no
        other prompt.

        A jailbreak has the combination of its harmful request.
        """
        kind = "harmful" if self.kind == "jailbreak" else self.kind
        return (kind, *(word for slot, word in self.slots.items() if slot != "wrapper"))

    @property
    def family(self) -> Family | None:
        """The fragments of an answer; None where the request is to be refused."""
        key = f"fact {self.slots['asked']}" if self.kind == "fact" else self.kind
        return FAMILIES.get(key)

    @property
    def must_refuse(self) -> bool:
        """Whether a refusal is the right answer."""
        return self.family is None


def draw_task(rng: random.Random) -> Task:
    """A request at random: its kind by `KIND_WEIGHTS`, its wording and its slots uniformly."""
    kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
    number = rng.randrange(len(REQUESTS[kind]))
    slots = {
        slot: rng.choice(CLASSES[slot])
        for slot in re.findall(r"\{(\w+)\}", REQUESTS[kind][number])
        if slot != "question"
    }
    if kind == "safe":
        slots["thing"] = rng.choice(DEEDS[slots["verb"]])
    if kind == "fact":
        slots["asked"] = rng.choice(list(QUESTIONS))
    return _task(kind, number, slots)


def parse_task(prompt: Prompt) -> Task:
    """The task in a prompt's last user message (or in its text).

    Raises DataError for a text that the world did not write.
    """
    if isinstance(prompt, str):
        return _parse(prompt)
    for message in reversed(prompt):
        if message.role == "user":
            return _parse(message.content)
    raise DataError(
        f"The prompt has no user turn, so the embedded world cannot score it: {prompt!r}. "
        "Give it a conversation with a user message."
    )


def _task(kind: Kind, number: int, slots: Mapping[str, str]) -> Task:
    question = QUESTIONS[slots["asked"]] if kind == "fact" else ""
    text = REQUESTS[kind][number].format(**slots, question=question)
    ordered = {slot: slots[slot] for slot in sorted(slots)}
    if kind == "jailbreak":
        ordered["wrapper"] = _wrapper_name(number)
    return Task(kind, text, ordered)


def _wrapper_name(number: int) -> str:
    wordings = len(REQUESTS["jailbreak"]) // len(WRAPPERS)
    return list(WRAPPERS)[number // wordings]


def _pattern(request: str) -> re.Pattern[str]:
    """A regular expression for a request's wording, with a named group for each slot."""
    parts = re.split(r"\{(\w+)\}", request)
    pieces = []
    for index, part in enumerate(parts):
        if index % 2 == 0:
            pieces.append(re.escape(part))
            continue
        words = QUESTIONS.values() if part == "question" else CLASSES[part]
        pieces.append(f"(?P<{part}>{'|'.join(re.escape(word) for word in words)})")
    return re.compile("".join(pieces))


_PATTERNS: tuple[tuple[Kind, int, re.Pattern[str]], ...] = tuple(
    (kind, number, _pattern(request))
    for kind, requests in REQUESTS.items()
    for number, request in enumerate(requests)
)


@lru_cache(maxsize=65536)
def _parse(text: str) -> Task:
    for kind, number, pattern in _PATTERNS:
        match = pattern.fullmatch(text.strip())
        if match is None:
            continue
        slots = match.groupdict()
        if kind == "safe" and slots["thing"] not in DEEDS[slots["verb"]]:
            continue
        if kind == "fact":
            question = slots.pop("question")
            slots["asked"] = next(slot for slot, words in QUESTIONS.items() if words == question)
        return _task(kind, number, slots)
    raise DataError(
        f"The embedded world did not write this prompt, so it knows no true reward for it: "
        f"{text[:200]!r}. Use prompts that `build_world` wrote, or another judge."
    )
