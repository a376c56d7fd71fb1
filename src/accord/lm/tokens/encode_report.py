"""Counts of the records that were encoded, truncated and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from accord.data.plain_prompts import CONTINUED
from accord.records import Source


@dataclass
class EncodeReport:
    """How many records are used, in how many groups (a long text is split into several), what was
    truncated, and the sources of dropped records by reason.

    records, used, groups, tokens: numbers of each. prompts_cut, responses_cut: truncated ones.
    eos_lost: responses whose EOS was truncated; eos_added: responses whose template wrote none.
    unfinished: responses that were cut when they were sampled. answers_not_learned: rows with
    earlier assistant turns that are not trained on. answers_marked: assistant turns that rows mark
    as not to be learned. unwritten: fields of turns that the chat template does not write, such as
    `name`. desirable, undesirable, neither: labels of responses. equal_pairs: pairs of a ranking
    whose responses are equal. prompts_merged, prompts_reopened, answers_altered: see
    `answers.EncodedAnswers`.
    """

    records: int = 0
    used: int = 0
    groups: int = 0
    tokens: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0
    eos_lost: int = 0
    eos_added: int = 0
    unfinished: int = 0
    answers_not_learned: int = 0
    answers_marked: int = 0
    desirable: int = 0
    undesirable: int = 0
    neither: int = 0
    equal_pairs: int = 0
    prompts_merged: int = 0
    prompts_reopened: int = 0
    answers_altered: int = 0
    plain_prompts: int = 0
    unwritten: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, list[Source]] = field(default_factory=dict)

    def drop(self, reason: str, source: Source) -> None:
        self.dropped.setdefault(reason, []).append(source)

    def leave_out(self, fields: Iterable[str]) -> None:
        """Count fields of a row that the chat template does not write."""
        self.unwritten.update(set(fields))

    def add(self, other: EncodeReport, source_of: Callable[[Source], Source]) -> None:
        """Add what another report counted, whose sources `source_of` replaces."""
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
        self.unwritten.update(other.unwritten)
        for reason, sources in other.dropped.items():
            self.dropped.setdefault(reason, []).extend(map(source_of, sources))

    def to_values(self) -> dict[str, Any]:
        """All that it counted as JSON, with the path and line of each dropped record."""
        dropped = {reason: [[s.path, s.line] for s in of] for reason, of in self.dropped.items()}
        return {**vars(self), "unwritten": dict(self.unwritten), "dropped": dropped}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> EncodeReport:
        """The report that `to_values` wrote. Raises TypeError where it is another version's."""
        dropped = {
            reason: [Source(path, line) for path, line in sources]
            for reason, sources in values["dropped"].items()
        }
        return cls(**{**values, "unwritten": Counter(values["unwritten"]), "dropped": dropped})

    def summary(self) -> str:
        """One line to show to the user."""
        pieces = f", in {self.groups:,} pieces" if self.groups > self.used else ""
        parts = [
            f"{self.used:,} of {self.records:,} rows used{pieces}, {self.tokens:,} tokens",
        ]
        if self.prompts_cut:
            parts.append(f"{self.prompts_cut:,} prompts cut at their start")
        if self.responses_cut:
            lost = "they" if self.eos_lost == self.responses_cut else f"{self.eos_lost:,} of them"
            parts.append(f"{self.responses_cut:,} responses cut short ({lost} lost their EOS)")
        if self.unfinished:
            parts.append(f"{self.unfinished:,} responses without an end, as they were sampled")
        if self.answers_not_learned:
            parts.append(
                f"{self.answers_not_learned:,} rows with earlier answers, of which only the last "
                f"is learned (loss_on=assistant learns all)"
            )
        if self.answers_marked:
            parts.append(f"{self.answers_marked:,} answers are context only, as the rows mark them")
        for name, count in self.unwritten.items():
            parts.append(f"the chat template does not write `{name}` (of {count:,} rows)")
        if self.desirable or self.undesirable:
            parts.append(f"{self.desirable:,} responses desirable, {self.undesirable:,} not")
        if self.neither:
            parts.append(f"{self.neither:,} responses in the middle of their ranking left out")
        if self.equal_pairs:
            parts.append(f"{self.equal_pairs:,} pairs of equal responses in rankings left out")
        if self.prompts_merged:
            parts.append(
                f"in {self.prompts_merged:,} rows a token spans the end of the prompt and the "
                f"start of the answer: it is learned with the answer"
            )
        if self.prompts_reopened:
            parts.append(
                f"in {self.prompts_reopened:,} rows the chat template begins the answer "
                f"differently than it ends the prompt (it may open a thought there): the answer "
                f"begins where both part"
            )
        if self.answers_altered:
            parts.append(
                f"the chat template leaves out or changes a part of {self.answers_altered:,} "
                f"answers, such as a thought: it is not learned"
            )
        if self.plain_prompts:
            parts.append(f"{self.plain_prompts:,} prompts are plain text, which is {CONTINUED}")
        for reason, sources in self.dropped.items():
            shown = ", ".join(str(source.without_folder()) for source in sources[:3])
            shown += ", …" if len(sources) > 3 else ""
            parts.append(f"{len(sources):,} dropped: {reason} ({shown})")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "used": self.used,
            "groups": self.groups,
            "tokens": self.tokens,
            "prompts_cut": self.prompts_cut,
            "responses_cut": self.responses_cut,
            "eos_lost": self.eos_lost,
            "eos_added": self.eos_added,
            "unfinished": self.unfinished,
            "answers_not_learned": self.answers_not_learned,
            "answers_marked": self.answers_marked,
            "unwritten": dict(self.unwritten),
            "desirable": self.desirable,
            "undesirable": self.undesirable,
            "neither": self.neither,
            "equal_pairs": self.equal_pairs,
            "prompts_merged": self.prompts_merged,
            "prompts_reopened": self.prompts_reopened,
            "answers_altered": self.answers_altered,
            "plain_prompts": self.plain_prompts,
            "dropped": {reason: len(sources) for reason, sources in self.dropped.items()},
        }
