"""The published forms of red-teaming suites: which columns each has, and what its rows mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from accord.data.checks import RowError, require_text
from accord.data.suites.suite import Label
from accord.data.turns import parse_turns
from accord.records import Message

Row = Mapping[str, Any]

HARMFUL_WORDS = frozenset({"harmful", "unsafe", "toxic", "jailbreak"})
HARMLESS_WORDS = frozenset({"harmless", "safe", "benign"})
COPYRIGHT = "a copyright behavior, which is graded by the protected text and not by refusals"
NO_LABEL = "nothing says whether it is harmful"


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """What a row says; `label` is None where the row itself does not say it."""

    turns: tuple[Message, ...]
    label: Label | None
    category: str = ""
    target: str = ""
    attack: str = ""
    language: str = "en"


@dataclass(frozen=True, slots=True)
class SuiteFormat:
    """A published form. A file has it where it has all `columns`, whatever their case.

    `label` is that of all rows where the form alone says it; None where rows, or the name of the
    file or split, say it.
    """

    name: str
    columns: frozenset[str]
    parse: Callable[[Row], ParsedRow]
    label: Label | None = None


def _text(row: Row, column: str) -> str:
    text = require_text(row.get(column), column).strip()
    if not text:
        raise RowError("an empty prompt", f"`{column}`")
    return text


def _optional(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def label_from_word(word: str) -> Label | None:
    """The label that a word gives, such as `unsafe`; None for other words."""
    word = word.strip().casefold()
    if word in HARMFUL_WORDS:
        return "harmful"
    return "harmless" if word in HARMLESS_WORDS else None


def _xstest(row: Row) -> ParsedRow:
    """XSTest (Röttger et al. 2023): 250 safe prompts, and 200 unsafe ones in contrast to them.

    Its first version has no `label`: the types of unsafe prompts begin with `contrast`.
    """
    kind = _text(row, "type")
    label: Label = "harmful" if kind.startswith("contrast") else "harmless"
    if row.get("label") is not None:
        named = label_from_word(str(row["label"]))
        if named is None:
            raise RowError("a `label` that is neither safe nor unsafe", repr(row["label"]))
        if named != label:
            raise RowError("`type` and `label` contradict each other", f"{kind}, {row['label']}")
    return ParsedRow(_user(_text(row, "prompt")), label, kind)


def _harmbench(row: Row) -> ParsedRow:
    """HarmBench (Mazeika et al. 2024). A contextual behavior has its context before it.

    AdvBench comes in this form too, without the categories.
    """
    category = _optional(row, "semanticcategory") or _optional(row, "category")
    if _optional(row, "functionalcategory") == "copyright" or category == "copyright":
        raise RowError(COPYRIGHT)
    text, context = _text(row, "behavior"), _optional(row, "contextstring")
    return ParsedRow(_user(f"{context}\n\n---\n\n{text}" if context else text), "harmful", category)


def _advbench(row: Row) -> ParsedRow:
    """AdvBench (Zou et al. 2023): a goal, and how an answer that complies begins."""
    return ParsedRow(_user(_text(row, "goal")), "harmful", "", _optional(row, "target"))


def _jailbreakbench(row: Row) -> ParsedRow:
    """JailbreakBench (Chao et al. 2024): 100 harmful and 100 benign goals, in splits of their own,
    so the label is that of the split."""
    target = _optional(row, "target")
    return ParsedRow(_user(_text(row, "goal")), None, _optional(row, "category"), target)


def _strongreject(row: Row) -> ParsedRow:
    """StrongREJECT (Souly et al. 2024)."""
    text = _text(row, "forbidden_prompt")
    return ParsedRow(_user(text), "harmful", _optional(row, "category"))


def _or_bench(row: Row) -> ParsedRow:
    """OR-Bench (Cui et al. 2024): configurations `or-bench-80k` and `or-bench-hard-1k` only look
    harmful, and `or-bench-toxic` is, so the label is that of the name."""
    return ParsedRow(_user(_text(row, "prompt")), None, _optional(row, "category"))


def _plain(row: Row) -> ParsedRow:
    """Prompts as accord's other commands read them, with `label` or `meta.kind`."""
    value = row.get("prompt")
    if isinstance(value, list | tuple):
        turns = parse_turns(value, "prompt")
        if turns[-1].role != "user" or not turns[-1].content.strip():
            raise RowError("the last turn is not a request of the user's")
    else:
        turns = _user(_text(row, "prompt"))
    meta = cast("Row", row["meta"]) if isinstance(row.get("meta"), Mapping) else {}
    kind = _optional(row, "kind") or _optional(meta, "kind")
    stated = _optional(row, "label")
    label = label_from_word(stated or kind)
    if stated and label is None:
        raise RowError("a `label` that is neither harmful nor harmless", repr(stated))
    if label is None and kind:
        label = "harmless"  # the embedded world's kinds, of which two are to be refused
    return ParsedRow(
        turns,
        label,
        _optional(row, "category") or kind,
        _optional(row, "target"),
        "jailbreak" if kind == "jailbreak" else "",
        _optional(row, "language") or "en",
    )


FORMATS: tuple[SuiteFormat, ...] = (
    SuiteFormat("XSTest", frozenset({"prompt", "type"}), _xstest),
    SuiteFormat("StrongREJECT", frozenset({"forbidden_prompt"}), _strongreject, "harmful"),
    SuiteFormat("JailbreakBench", frozenset({"goal", "target", "behavior"}), _jailbreakbench),
    SuiteFormat("HarmBench", frozenset({"behavior", "behaviorid"}), _harmbench, "harmful"),
    SuiteFormat("AdvBench", frozenset({"goal", "target"}), _advbench, "harmful"),
    SuiteFormat("plain", frozenset({"prompt", "label"}), _plain),
    SuiteFormat("plain", frozenset({"prompt", "meta"}), _plain),
    SuiteFormat("plain", frozenset({"prompt", "kind"}), _plain),
    SuiteFormat("OR-Bench", frozenset({"prompt", "category"}), _or_bench),
    SuiteFormat("plain", frozenset({"prompt"}), _plain),
)
"""In the order in which they are tried: the first whose columns a file has."""
