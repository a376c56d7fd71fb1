"""What a model's critique says, and whether its revision is one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from accord.compare.judges.thoughts import final_answer

RUN_WORDS = 8
"""A run of this many words of the critique or the request, which stands neither in the prompt nor
in the original, is a quotation; of a shorter critique all of it, from MIN_RUN words on."""
MIN_RUN = 4

DropReason = Literal[
    "empty", "cut", "unchanged", "quotes the critique", "quotes the request", "unfinished thoughts"
]

_SUBJECT = r"(?:(?:the|this|that|your|its)\s(?:response|answer|reply|text)|it|i)"
_KIND = (
    r"(?:issues?|problems?|faults?|violations?|concerns?|errors?|flaws?|such\s\w+|harmful\s\w+|"
    r"objections?)"
)
_NOTHING = re.compile(
    rf"(?:(?:there\s(?:is|are)|{_SUBJECT}\s(?:has|have|contains?|shows?|finds?|found|sees?|see)|"
    rf"i\scan\sfind)\s)?"
    rf"(?:no\s{_KIND}(?:\s(?:found|here|at\sall|to\sreport|with\s{_SUBJECT}|in\s{_SUBJECT}|"
    rf"were\sfound|was\sfound))*|nothing(?:\s(?:found|wrong|of\sthe\skind|to\s\w+))*|none|n/a)"
    rf"|(?:there\s(?:is|are)\s)?nothing\swrong\swith\s{_SUBJECT}",
    re.IGNORECASE,
)
_BUT = re.compile(
    r"\b(?:but|however|although|though|except|nevertheless|still|yet|only|apart\sfrom|other\sthan|"
    r"unless|should|could\sbe|needs?\sto)\b",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_LEAD_IN = re.compile(
    r"\A\W*(?:(?:sure|certainly|of\scourse|okay|ok)\b\W*)?(?:here(?:'s|\sis|\sare)\s)?"
    r"(?:(?:the|a|an|my|your|one)\s)?(?:possible\s)?"
    r"(?:revised|rewritten|improved|new|better|updated|corrected)\s"
    r"(?:version|response|answer|reply|text)\b[^\n:]{0,60}:\W*(?:\n|(?=\S))"
    r"|\A\W*(?:revision|rewrite|revised):\W*",
    re.IGNORECASE,
)
_TAGS = re.compile(r"</?(?:conversation|answer|critique)-[0-9a-f]{12}>")
_WORDS = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True)
class Critique:
    """A critique as text, and whether it finds a fault."""

    text: str
    finds_fault: bool


def read_critique(text: str) -> Critique | None:
    """The critique in a model's message; None where there is none, as the message is empty or its
    thoughts never end.

    It found nothing where its first or last sentence says so, and no word such as "but" takes that
    back. In any doubt it found something: the revision is judged.
    """
    answer = final_answer(text)
    clean = "" if answer is None else _TAGS.sub("", answer).strip()
    if not _WORDS.search(clean):
        return None
    sentences = [s for s in _SENTENCES.split(clean) if _WORDS.search(s)]
    says_nothing = _says_nothing(sentences[0]) or _says_nothing(sentences[-1])
    return Critique(clean, finds_fault=not says_nothing or _BUT.search(clean) is not None)


def read_revision(text: str) -> str | None:
    """The revision in a model's message: without thoughts, tags of the request, quotation marks
    around the whole and a line that announces it; None where its thoughts never end."""
    answer = final_answer(text)
    if answer is None:
        return None
    clean = _LEAD_IN.sub("", _TAGS.sub("", answer).strip(), count=1).strip()
    for left, right in ('""', "“”"):
        inside = clean[1:-1]
        if len(clean) > 1 and clean[0] == left and clean[-1] == right and left not in inside:
            return inside.strip()
    return clean


def revision_fault(
    revision: str,
    *,
    original: str,
    prompt: str,
    critique: str,
    requests: Sequence[str],
    finished: bool = True,
) -> DropReason | None:
    """Why a revision can't stand for the original, or None.

    `requests` are the questions that the model was asked. Texts that differ in case, blanks and
    punctuation alone are equal.
    """
    words = _split(revision)
    if not revision.strip():
        return "empty"
    if not finished:
        return "cut"
    if words == _split(original) and (words or revision.split() == original.split()):
        return "unchanged"
    known = f"{prompt}\n{original}"
    if _quotes(words, critique, known) or _names_critique(words, _split(known)):
        return "quotes the critique"
    if any(_quotes(words, request, known) for request in requests):
        return "quotes the request"
    return None


def _says_nothing(sentence: str) -> bool:
    bare = " ".join(sentence.split()).strip(" .!*_`\"'“”‘’:()#-")
    return _NOTHING.fullmatch(bare) is not None


def _split(text: str) -> list[str]:
    return [word.casefold() for word in _WORDS.findall(text)]


def _names_critique(words: Sequence[str], known: Sequence[str]) -> bool:
    """Whether the revision speaks of a critique, and the original and its prompt do not."""
    names = {"critique", "critiques", "criticism", "critiquerequest", "revisionrequest"}
    return bool(names.intersection(words)) and not names.intersection(known)


def _quotes(words: Sequence[str], source: str, known: str) -> bool:
    """Whether the words contain a run of the source's that `known` does not contain."""
    source_words = _split(source)
    size = min(RUN_WORDS, len(source_words))
    if size < MIN_RUN:
        return False
    return bool(_runs(words, size) & _runs(source_words, size) - _runs(_split(known), size))


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
