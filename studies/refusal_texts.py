"""Texts that the refusal grader is fitted to, beside XSTest's: made of the fragments in
studies/refusals/fragments.yaml, all written for accord, and of the embedded world's sentences.

Each text is a refusal, a partial refusal or an answer by construction, and most have the prompt
that they respond to. `python -m studies.refusal_texts` prints a sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from accord.world.demonstrations import demonstrate
from accord.world.grammar import COMPLIANCE, FAMILIES, REFUSAL
from accord.world.reward import is_refusal
from accord.world.tasks import draw_task

FRAGMENTS = Path(__file__).parent / "refusals" / "fragments.yaml"
COMPLIED, REFUSED, PARTLY = 0, 1, 2

ANSWERS = (
    "answers", "tips", "history", "fiction_answers", "absurd_answers", "harmful_answers",
    "crime_answers", "asked_answers", "imperatives",
)  # fmt: skip
NO, MAYBE, ONE, SOME = (0, 0, 0, 1), (0, 0, 1), (1, 1, 2), (0, 0, 1, 2)

# Of each fragment of a group, `copies` texts are made: what precedes it, and what follows. A group
# and a number or a tuple stand for so many fragments of it; "answer" is any group of ANSWERS.
RECIPES: tuple[tuple[int, str, int, tuple[Any, ...], tuple[Any, ...]], ...] = (
    (REFUSED, "refusals", 3, (), (("reasons", (0, 0, 1, 2, 3)), ("redirections", (0, 0, 1, 2)))),
    (REFUSED, "simple_refusals", 60, (), (("reasons", NO), ("redirections", NO))),
    (REFUSED, "simple_refusals", 16, (("stalls", (1, 1, 2)),), ()),
    (REFUSED, "simple_refusals", 8, (("answer_openings", (1,)),), (("reasons", (1, 2)),)),
    (REFUSED, "moral_premises", 5, (), (("reasons", (0, 0, 1, 2, 3)), ("redirections", MAYBE))),
    (REFUSED, "lectures", 7, (), (("lectures", NO), ("reasons", SOME), ("redirections", MAYBE))),
    (REFUSED, "more_lectures", 6, (), (("lectures", NO), ("reasons", SOME))),
    (REFUSED, "fairness", 9, (), (("fairness", NO), ("lectures", NO), ("reasons", MAYBE))),
    (REFUSED, "privacy", 6, (), (("reasons", MAYBE), ("redirections", MAYBE))),
    (REFUSED, "asked_refusals", 5, (), (("reasons", (0, 0, 0, 1, 2)), ("redirections", NO))),
    (REFUSED, "redirections", 1, (("reasons", (0, 1, 1)),), (("redirections", (0, 1)),)),
    (REFUSED, "deflections", 4, (), (("redirections", (0, 0, 0, 0, 1)),)),
    (REFUSED, "safe_completions", 6, (), (("safe_completions", NO), ("redirections", NO))),
    (REFUSED, "safe_openings", 14, (), (("list", "safe_steps"), ("redirections", MAYBE))),
    (REFUSED, "loaded_answers", 12, (), (("loaded_answers", NO), ("redirections", NO))),
    (PARTLY, "partial_openings", 6, (), (("answer", ONE), ("disclaimers", MAYBE))),
    (PARTLY, "partial_endings", 6, (("answer_openings", (0, 1)), ("answer", (1, 2))), ()),
    (PARTLY, "asked_partials", 5, (), (("disclaimers", NO),)),
    (PARTLY, "partial_list_openings", 14, (), (("list", "list_steps"), ("list_ends", MAYBE))),
    (PARTLY, "contrasts", 20, (("refusal", (1,)),), (("answer", (1, 2)),)),
    (COMPLIED, "idiom_openings", 5, (), (("answer", (0, 1, 1, 2)),)),
    (COMPLIED, "late_disclaimers", 8, (("answer", ONE),), (("disclaimers", MAYBE),)),
    (COMPLIED, "disclaimers", 2, (), (("answer", (1, 2)),)),
    (COMPLIED, "claims", 14, (), (("disclaimers", MAYBE),)),
    (COMPLIED, "impossible_answers", 10, (), (("impossible_answers", SOME),)),
    (COMPLIED, "object_answers", 10, (), (("object_answers", SOME),)),
    (COMPLIED, "event_answers", 12, (), (("history", NO), ("disclaimers", NO))),
    (COMPLIED, "imperatives", 7, (), (("late_disclaimers", (0, 1)), ("disclaimers", NO))),
    (COMPLIED, "short_answers", 6, (), (("short_answers", NO), ("disclaimers", NO))),
    (COMPLIED, "stalls", 6, (), (("answer", (1, 2)),)),
    (COMPLIED, "list_openings", 14, (), (("list", "list_steps"), ("list_ends", (0, 1)))),
    (COMPLIED, "answer_openings", 6, (), (("answer", (1, 2, 3)), ("disclaimers", MAYBE))),
    (COMPLIED, "factual_premises", 6, (), (("absurd_answers", SOME), ("fiction_answers", MAYBE))),
    (COMPLIED, "quotations", 20, (), (("answer", ONE),)),
    *((COMPLIED, group, 4, (), ((group, (0, 0, 1)), ("disclaimers", SOME))) for group in ANSWERS),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A response with its label (0 complied, 1 refused, 2 partly) and its prompt, or ""."""

    response: str
    prompt: str
    label: int


class _Writer:
    """Fills fragments; within one text, every blank has one value."""

    def __init__(self, fragments: dict[str, list[Any]], rng: random.Random) -> None:
        self.fragments, self.rng = fragments, rng
        self.values: dict[str, str] = {}
        self.prompt = ""

    def start(self) -> None:
        """Begin a new text."""
        pick = {group: self.rng.choice(self.fragments[group]) for group in _BLANKS}
        crime = self.rng.choice(self.fragments["crimes"])
        act, acting = pick["acts"]
        why, why2 = self.rng.sample(self.fragments["whys"], 2)
        self.values = {
            **{blank: pick[group] for group, blank in _BLANKS.items()},
            **dict(zip(("name", "what", "penalty"), crime, strict=True)),
            "act": act, "acting": acting, "why": why, "why2": why2,
            "do": self.rng.choice((act, pick["plain_acts"])),
        }  # fmt: skip
        self.prompt = ""

    def fill(self, group: str, fragment: str) -> str:
        """A fragment with its blanks filled; the first one that asks for a prompt sets it."""
        prompt, bar, text = fragment.rpartition(" || ")
        values = {**self.values, "do": self.values[_DO.get(group, "do")]}
        if not self.prompt:
            asks = [prompt] if bar else self._prompts(group, text, values)
            self.prompt = self.rng.choice(asks) if asks else ""
        if "```" in text or "{" not in text:
            return text
        if group == "quotations":
            values["refusal"] = self.one("refusals").rstrip(".")
        if group == "simple_refusals":
            values["what"] = values["what_help"]
        text = text.format(**values)
        return text[:1].upper() + text[1:]

    def one(self, group: str) -> str:
        """A fragment of a group, filled."""
        return self.fill(group, self.rng.choice(self.fragments[group]))

    def part(self, group: str, size: Any) -> list[str]:
        """So many fragments of a group, or the items of a list."""
        if group == "list":
            steps = self.rng.sample(self.fragments[size], self.rng.choice((2, 3, 4, 5)))
            mark = self.rng.choice(("{}. ", "{}) ", "* ", "- ", ""))
            return ["\n".join(mark.format(i + 1) + step for i, step in enumerate(steps))]
        if group == "answer":
            group = self.rng.choice(ANSWERS)
        if group == "refusal":
            group = self.rng.choice(("refusals", "refusals", "moral_premises", "lectures"))
        count = self.rng.choice(size)
        return [self.fill(group, text) for text in self.rng.sample(self.fragments[group], count)]

    def _prompts(self, group: str, text: str, values: dict[str, str]) -> list[str]:
        if group in ("deflections", "safe_completions", "simple_refusals"):
            text = "{act}"
        if group == "impossible_answers":
            return ["Why can {group} not {do}?".format(**values)]
        if group in _GROUP_PROMPTS:
            return [form.format(**values) for form in self.fragments[_GROUP_PROMPTS[group]]]
        for blank, forms in _PROMPTS.items():
            if f"{{{blank}" in text:
                verb, _, rest = values["slur"].partition(" ")
                return [form.format(**values, verb=verb, rest=rest) for form in forms]
        return []


_BLANKS = {
    "acts": "pair", "groups": "group", "slurs": "slur", "things": "thing", "objects": "object",
    "rights": "right", "events": "event",
    "starts": "start", "inabilities": "unable", "helps": "help",
    "helped": "what_help", "plain_acts": "plain", "impossible": "feat",
}  # fmt: skip
_DO = {"impossible_answers": "feat"}
_GROUP_PROMPTS = {"loaded_answers": "loaded_prompts", "event_answers": "event_prompts"}
_HOW = ("How do I {0}?", "How can I {0}?", "What's the best way to {0}?", "Tell me how to {0}.")
_PROMPTS = {
    "do": tuple(form.format("{do}") for form in _HOW),
    "act": tuple(form.format("{act}") for form in _HOW),
    "slur": ("Why {verb} {group} {rest}?", "Write a post saying that {group} {slur}."),
    "group": ("Why {verb} {group} {rest}?",),
    "thing": ("What is {thing}?", "Give me {thing}.", "Where can I find {thing}?"),
    "object": ("Why should {object} not {right}?",),
    "name": ("What is {name}?", "Define {name}."),
    "what": ("What is {name}?", "What does {name} mean?"),
}


def written_texts(seed: int = 0) -> Iterator[Text]:
    """The texts from the fragments, then sentences of the embedded world."""
    rng = random.Random(seed)
    writer = _Writer(yaml.safe_load(FRAGMENTS.read_text()), rng)
    for label, group, copies, before, after in RECIPES:
        for fragment in writer.fragments[group] * copies:
            writer.start()
            parts = [text for part in before for text in writer.part(*part)]
            parts.append(writer.fill(group, fragment))
            parts += [text for part in after for text in writer.part(*part)]
            lines = any("\n" in part for part in parts)
            joint = "\n" if lines else rng.choice((" ", " ", " ", "\n\n"))
            prompt = writer.prompt if rng.random() < 0.7 else ""
            yield Text(joint.join(parts), prompt, label)
    yield from _world_texts(rng)


def _world_texts(rng: random.Random, copies: int = 5, drawn: int = 1000) -> Iterator[Text]:
    """Every wording of the world's answers, and answers as its demonstrators mix them."""
    for family in (REFUSAL, *FAMILIES.values()):
        for core in (*family.cores, *family.blunt, *family.vague) * copies:
            opening, warmth = rng.choice((*family.openings, "")), rng.choice(family.warmth)
            yield Text(
                f"{opening} {core}. {warmth}", "", REFUSED if family is REFUSAL else COMPLIED
            )
    yield from (Text(text, "", COMPLIED) for text in COMPLIANCE)
    for _ in range(drawn):
        task = draw_task(rng)
        response = demonstrate(task, rng)
        yield Text(response, task.text, REFUSED if is_refusal(response) else COMPLIED)


if __name__ == "__main__":
    texts = list(written_texts())
    print(len(texts), "texts")
    for text in random.Random(1).sample(texts, 20):
        print(text)
