"""The advice: the first rule that applies, its confidence, and what else would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accord.measure.statistics import Interval
from accord.pipeline.advise.rules import CHOICES, FALLBACK, Choice, Rule, matching
from accord.pipeline.advise.situation import GOALS, Situation

FEW_TO_TRUST = 200
"""Preferences below which a report on held-out prompts has to show that they helped."""
LEVELS = ("high", "medium", "low")
NOTHING_DONE: tuple[Choice, ...] = ("stay", "annotate")


@dataclass(frozen=True, slots=True)
class Advice:
    """`rule` is what is advised; `others` are further rules that apply, each with other advice.
    `doubts` are the unknown facts that lower the confidence, with what would show them."""

    situation: Situation
    rule: Rule
    others: tuple[Rule, ...]
    doubts: tuple[str, ...]

    @property
    def choice(self) -> Choice:
        return self.rule.advice

    @property
    def confidence(self) -> str:
        """That of the rule, a level lower where a fact that matters is unknown."""
        level = LEVELS.index(self.rule.sure) + bool(self.doubts)
        return LEVELS[min(level, len(LEVELS) - 1)]

    def to_json(self) -> dict[str, Any]:
        return {
            "advice": self.choice,
            "meaning": CHOICES[self.choice],
            "confidence": self.confidence,
            "rule": _rule_json(self.rule),
            "doubts": list(self.doubts),
            "others": [_rule_json(rule) for rule in self.others],
            "situation": self.situation.to_json(),
        }

    def text(self) -> str:
        """The advice for a terminal."""
        return "\n".join(_lines(self))


def advise(situation: Situation) -> Advice:
    """The advice for a situation; a pure function of it."""
    rules = matching(situation) or [FALLBACK]
    seen: set[Choice] = {rules[0].advice, *NOTHING_DONE}
    if not situation.trainable:
        seen |= {choice for choice in CHOICES if choice != "best-of-n"}
    others = []
    # A reason against training holds for whatever else would train.
    for rule in rules[1:] if rules[0].advice not in NOTHING_DONE else []:
        if rule.advice not in seen:
            seen.add(rule.advice)
            others.append(rule)
    return Advice(situation, rules[0], tuple(others), tuple(_doubts(situation, rules[0])))


def _doubts(s: Situation, rule: Rule) -> Iterator[str]:
    learned = rule.advice in ("dpo", "kto", "orpo", "reward+grpo", "reward+best-of-n")
    if learned and s.repeats is None and s.words is None:
        yield (
            "how reliable the labels are: judge some pairs twice (`accord annotate`), and repeat "
            "them in the file"
        )
    if learned and s.preferences < FEW_TO_TRUST:
        yield (
            f"whether what {s.preferences} preferences teach holds for other prompts: look at the "
            "held-out answers of the report before you use the model"
        )
    if learned and s.pairs and s.pairs_from is None:
        yield "who wrote the answers of the pairs: `pairs_from=model` or `pairs_from=elsewhere`"
    if rule.name == "labels like coin flips" and _is_wide(s):
        yield "whether the labels are that bad: judge more pairs twice, for a narrower interval"
    if rule.advice in ("grpo", "best-of-n"):
        if s.probe is None or s.probe == "undecided":
            yield "what misleads the reward: `accord probe`, then `probe=FOLDER/probe.json`"
        if s.gain is None:
            yield (
                "whether the model's answers differ by the reward: `accord sample "
                "num_responses=4`, then `responses=FOLDER/responses.jsonl`"
            )


def _is_wide(s: Situation) -> bool:
    """Whether only a few pairs that were judged twice speak of the labels."""
    return s.words is None and s.repeats is not None and (s.repeats.high or 1.0) > 0.7


def _rule_json(rule: Rule) -> dict[str, str]:
    return {
        "name": rule.name,
        "advice": rule.advice,
        "reason": rule.reason,
        "would_change": rule.change,
        "source": rule.source,
    }


def _lines(advice: Advice) -> Iterator[str]:
    rule = advice.rule
    yield f"Advice: {CHOICES[rule.advice]} ({rule.advice}; confidence: {advice.confidence})."
    yield f"Why: {rule.reason}"
    yield f"What would change it: {rule.change}"
    for doubt in advice.doubts:
        yield f"Not known: {doubt}."
    for other in advice.others:
        yield f"Also possible: {CHOICES[other.advice]} ({other.advice}). {other.reason}"
    yield f"Rule: {rule.name} ({rule.source}). All rules: docs/advise.md."
    yield "Seen:"
    yield from (f"  {line}" for line in _seen(advice.situation))


def _seen(s: Situation) -> Iterator[str]:
    yield f"goal: {s.goal} ({GOALS[s.goal]})"
    yield from s.notes
    if s.repeats is not None:
        yield f"pairs judged twice agree: {_share(s.repeats)}"
    if s.words is not None:
        yield f"a model of words predicts unseen labels: {_share(s.words)}"
    if s.leaks:
        yield f"rows whose prompt is held out or in an evaluation set: {s.leaks:,}"
    yield f"reward: {s.reward or 'none'}; its probes: {s.probe or 'not known'}"
    if s.gain is not None:
        bounds = "" if s.gain.low is None else f" ({s.gain.low:.2f} to {s.gain.high:.2f})"
        yield (
            f"the best of {s.answers} answers is {s.gain.mean:.2f}{bounds} standard deviations "
            f"above their mean; {s.tied or 0:.0%} of the prompts are tied"
        )
    yield f"answers per request at inference: {s.candidates}"
    yield f"sampling during training: {'fits' if s.online_fits else 'no'} ({s.machine})"


def _share(interval: Interval) -> str:
    low, high = interval.low or 0.0, 1.0 if interval.high is None else interval.high
    return f"{interval.mean:.0%} ({low:.0%} to {high:.0%})"
