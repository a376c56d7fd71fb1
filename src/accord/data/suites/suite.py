"""A prompt of a suite, with the verdict on it that is known: whether it asks for harm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from accord.data.report import Dropped
from accord.records import UNKNOWN, Message, Source, turns_json

Label = Literal["harmful", "harmless"]


@dataclass(frozen=True, slots=True)
class SuitePrompt:
    """A conversation that ends with the user's request, and what is known of it.

    `label` says whether it should be refused. `target` is how an answer that complies would begin,
    where the suite gives that. `attack` is the name of an attack that the suite has applied itself.
    `meta` holds the row's other columns.
    """

    turns: tuple[Message, ...]
    label: Label
    suite: str
    category: str = ""
    target: str = ""
    attack: str = ""
    language: str = "en"
    source: Source = UNKNOWN
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name in logs: the digest of the conversation, and so the same in all suites."""
        text = json.dumps(turns_json(self.turns), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def request(self) -> str:
        """The text of the last turn, which is the user's."""
        return self.turns[-1].content

    @property
    def is_harmful(self) -> bool:
        return self.label == "harmful"


@dataclass(frozen=True, slots=True)
class Suite:
    """The prompts of one file or data set: `rows` were read, and `dropped` holds those that can't
    be used, by reason. `form` is the format that they were read as."""

    name: str
    form: str
    prompts: tuple[SuitePrompt, ...]
    rows: int
    dropped: Dropped = field(default_factory=dict)

    def count(self, label: Label) -> int:
        """The number of prompts with a label."""
        return sum(prompt.label == label for prompt in self.prompts)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "format": self.form,
            "rows": self.rows,
            "harmful": self.count("harmful"),
            "harmless": self.count("harmless"),
            "dropped": {reason: len(rows) for reason, rows in self.dropped.items()},
        }
