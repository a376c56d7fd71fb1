"""The grammar of a judge's verdict: what in an answer is one, and what only looks like one.

    answer     what follows the thoughts (`thoughts.py`)
    statement  a JSON object with the key, on lines of its own
             | a line `key: value`, or a line `key` and the value on the next one
             | `<key>value</key>`
             | a value alone as the last paragraph, or as the whole answer
    value      one of the verdicts, perhaps within markdown, quotes, brackets or \\boxed{}

The last statement counts. There is no verdict where its value is none of the verdicts, or where
statements of one form and different values follow each other directly: those are the options. What
is quoted (`> …`), given as an example, or within a sentence states nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from accord.compare.judges.thoughts import JsonObject, decode_object, final_answer

T = TypeVar("T")

PAIR_VERDICTS = {
    **{form.format(name): i for i, name in enumerate("ab") for form in ("{}", "response {}")},
    **{f"response-{name}": i for i, name in enumerate("ab")},
    "tie": None,
}
"""The verdicts on two responses: the index of the better one in the order shown, or None."""

_WRAPPERS = " \t\r\n*_`\"'“”‘’[](){}$\\"
"""Characters that may surround a value."""
_BOXED = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*(?=\{)")
_LABEL = re.compile(r"\s*(?:\d+[.)]\s*|[#*_\-•\s]*)(?P<name>[^:=|<>\n]{0,40}?)[*_\s]*$")
_SECTION = re.compile(r"</?(?:answer|output|final|final_answer|json|result|verdict|score)>")
_FENCE = re.compile(r"`{3,}\s*\w*|~{3,}\s*\w*")
_AN_EXAMPLE = re.compile(  # the end of what precedes a value that is spoken of, not given
    r"\b(?:such as|like|e\. ?g|either|or|not|instead of|versus|vs|"
    r"(?:an? |for )?(?:example|instance|options?|choices?|drafts?)(?: (?:is|are|was|were))?)\W*$",
    re.IGNORECASE,
)
_ALONE = re.compile(
    r"[a-z]|tie|response[ -][a-z]|neither|both|[-+−]?[\d.,]+( ?(/|out of) ?[\d.]+)?"
)
_ELLIPSES = ("…", "...")

MAX_LABEL = 80  # characters before a value

Form = Literal["object", "line", "alone"]


@dataclass(frozen=True, slots=True)
class Statement:
    """A value that an answer states, from index `start` to `end`; None where it is unclear."""

    start: int
    end: int
    form: Form
    value: str | None


def score_verdicts(lowest: int, highest: int) -> dict[str, int]:
    """The scores that may be given, by how they may be written: 7, 7.0, 7/10 or 7 out of 10."""
    scale = range(lowest, highest + 1)
    whole = {f"{n}{zeros}": n for n in scale for zeros in ("", ".0")}
    of_highest = ("{}/{}", "{} / {}", "{} out of {}")
    return whole | {form.format(n, highest): n for n in scale for form in of_highest}


def parse_verdict(content: str, key: str, verdicts: Mapping[str, T]) -> tuple[T] | None:
    """The verdict that a judge's message states under `key`, or None.

    `verdicts` are the values by how they are written, in lower case; the whole value must be one of
    them, whatever its case.
    """
    try:
        answer = final_answer(content)
        statements = [] if answer is None else sorted(_statements(answer, key), key=_end)
    except RecursionError:  # JSON that is nested without end
        return None
    if answer is None or not statements:
        return None
    last = statements[-1]
    value = _normalise(last.value)
    for earlier in reversed(statements[:-1]):
        between = answer[earlier.end : last.start]
        if earlier.form != last.form or re.search(r"\w", _FENCE.sub("", between)):
            break
        if _normalise(earlier.value) != value:
            return None  # a list of the options
        last = earlier
    return (verdicts[value],) if value in verdicts else None


def _end(statement: Statement) -> int:
    return statement.end


def _statements(answer: str, key: str) -> Iterator[Statement]:
    """All statements in an answer, in no order."""
    objects = list(_objects(answer))
    for start, end, json_object in objects:
        stated = _value_in_object(json_object, key)
        if stated is not None and _is_on_its_own(answer, start, end):
            yield Statement(start, end, "object", stated[0])
    text = _blank(answer, [(start, end) for start, end, _ in objects])
    yield from _stated_lines(text, key)
    for tagged in re.finditer(rf"<{key}>([^<>\0]*)</{key}>", text, re.IGNORECASE):
        yield Statement(tagged.start(), tagged.end(), "line", tagged[1])
    yield from _last_paragraph(text)


def _blank(answer: str, spans: Sequence[tuple[int, int]]) -> str:
    """The answer with NULs in some spans, so that their lines are not read and all indices stay."""
    parts, position = [], 0
    for start, end in spans:
        parts += [answer[position:start], "\0" * (end - start)]
        position = end
    return "".join([*parts, answer[position:]])


def _objects(answer: str) -> Iterator[tuple[int, int, JsonObject]]:
    start = answer.find("{")
    while start >= 0:
        decoded = decode_object(answer, start)
        end = start + 1
        if decoded is not None:
            end = decoded[1]
            yield start, end, decoded[0]
        start = answer.find("{", end)


def _value_in_object(json_object: JsonObject, key: str) -> tuple[str | None] | None:
    """What an object states under the key, itself or as the only object in it: None within the
    tuple where that is unclear, and no tuple where it states nothing."""
    pairs = json_object.pairs
    while len(pairs) == 1 and isinstance(pairs[0][1], JsonObject):
        pairs = pairs[0][1].pairs
    values = [v for name, v in pairs if _is_key(name.replace("_", " "), key)]
    if not values:
        return None
    if any(isinstance(v, str) and v.strip() in _ELLIPSES for _, v in pairs):
        return None  # the form, as the request shows it
    written = {_write_value(value) for value in values}
    return (written.pop() if len(written) == 1 else None,)


def _write_value(value: Any) -> str | None:
    """A JSON value as text; None for what is neither text nor a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.strip() if isinstance(value, str) else str(value)


def _is_on_its_own(answer: str, start: int, end: int) -> bool:
    """Whether nothing but a label and marks stands beside an object on its lines."""
    before = answer[answer.rfind("\n", 0, start) + 1 : start]
    after = answer[end:].split("\n", 1)[0]
    before, after = (_FENCE.sub("", _SECTION.sub("", side)) for side in (before, after))
    if re.search(r"\w", after) or before.lstrip().startswith(">"):
        return False
    if not re.search(r"\w", before):
        return not _AN_EXAMPLE.search(_line_before(answer, answer.rfind("\n", 0, start)))
    return before.rstrip(" *_`").endswith(":") and not _AN_EXAMPLE.search(before[-MAX_LABEL:])


def _stated_lines(text: str, key: str) -> Iterator[Statement]:
    """Lines `key: value`, and values on the line after a line `key`."""
    heading: int | None = None  # where a line with the key alone began
    end = 0
    for line in text.splitlines(keepends=True):
        start, end = end, end + len(line)
        if heading is not None:
            if line.strip(_WRAPPERS):
                yield Statement(heading, end, "line", line)
                heading = None
            continue
        name, mark, value = line.replace("=", ":", 1).partition(":")
        label = _LABEL.match(name) if len(name) <= MAX_LABEL else None
        if label is None or not _is_key(label["name"], key) or "\0" in value:
            continue
        if _AN_EXAMPLE.search(_line_before(text, start - 1)):
            continue
        if value.strip(_WRAPPERS):
            yield Statement(start, end, "line", value)
        elif mark or re.match(r"\s*[#*_]", name):
            heading = start


def _last_paragraph(text: str) -> Iterator[Statement]:
    """The last paragraph, where it is nothing but what may be a value."""
    end = len(text.rstrip(" \t\r\n`~"))
    start = max(
        text.rfind(gap, 0, end) for gap in ("\n\n", "\n \n", "\r\n\r\n", "```\n", "```json\n")
    )
    paragraph = text[max(start, 0) : end]
    if len(paragraph) <= MAX_LABEL and not paragraph.lstrip().startswith(">"):
        value = _SECTION.sub("", _FENCE.sub("", paragraph))
        if _ALONE.fullmatch(_normalise(value)):
            yield Statement(max(start, 0), len(text), "alone", value)


def _line_before(text: str, start: int) -> str:
    """The end of the last line with a word before an index."""
    while start > 0:
        end = start
        start = text.rfind("\n", 0, end)
        line = _FENCE.sub("", text[max(start + 1, end - MAX_LABEL) : end])
        if re.search(r"\w", line):
            return line
    return ""


def _is_key(name: str, key: str) -> bool:
    words = name.casefold().split()
    while words and words[0] in ("the", "my", "final", "overall"):
        words = words[1:]
    return words in ([key], [key, "is"])


def _normalise(value: str | None) -> str:
    """A value in lower case, without what surrounds it and without a full stop."""
    bare = _BOXED.sub("", value or "").strip(_WRAPPERS).removesuffix(".").strip(_WRAPPERS)
    return " ".join(bare.casefold().split())
