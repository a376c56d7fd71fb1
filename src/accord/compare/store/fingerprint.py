"""A judge's fingerprint, its raw answers, and the checks of it against people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any


@dataclass(frozen=True, slots=True)
class JudgeFingerprint:
    """What a judge's verdicts depend on: with any of it changed, it is another judge.

    `prompt` and `rubric` are the SHA-256 of the prompt's form and of the rubric; `settings` are
    the other settings that change an answer, such as the temperature.
    """

    model: str
    endpoint: str
    prompt: str
    rubric: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of all fields."""
        content = [self.model, self.endpoint, self.prompt, self.rubric, dict(self.settings)]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False)
        return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class JudgeAnswer:
    """One answer of a judge, as it came.

    `shown` are the ids of the responses in the order in which the judge saw them. `verdict` is
    what was read from `text`, in the words of the prompt (of a pair, A is the first shown), None
    where nothing could be read. `probability` is that of the first shown being the better one, in
    [0, 1], where the judge gives one.
    """

    text: str
    shown: tuple[int, ...]
    verdict: str | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class JudgeCheck:
    """The result of measuring a judge against people's verdicts: whether it passed, and its report.

    It holds for the judge with this fingerprint and for this criterion alone.
    """

    fingerprint: JudgeFingerprint
    passed: bool
    report: Mapping[str, Any]
    criterion: str | None = None
    created: str = ""
