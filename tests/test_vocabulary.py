"""The words that names and prose may not use, with the standard words to use instead.

A reader of TRL, CleanRL or transformers knows the names of this project at sight (docs/glossary.md
lists them). Words outside that vocabulary are found here: in the identifiers that src defines, and
in its comments, docstrings, messages, templates and pages, and those of docs.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for folder in ("src", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".md", ".j2", ".css")
    ),
]

# As whole words of prose, and as parts of a name (`is_told`, `ToldAgain`).
PROSE = {
    "told": "reported, returned, logged, passed, given",
    "tell": "report, return, log, say, show, distinguish",
    "tells": "reports, returns, logs, says, shows, distinguishes",
    "anew": "again, from scratch",
    "settled": "resolved",
    "dealt": "split, distributed, balanced, assigned",
    "gone on": "resumed, continued",
    "goes on with": "resumes, continues",
}
# As whole names; with a leading underscore and in capitals too.
NAMES = {
    "place": "path, index, position, rank, folder",
    "places": "paths, indices, positions, ranks, folders",
    "kept": "saved, cached, stored, retained",
    "found": "what was found: rows, texts, result",
    "held": "stored, in_memory",
    "deal": "split, distribute, balance, assign",
    "wanted": "requested, expected",
    "own": "what is owned: rank_rows, responses",
    "one_": "what it is: row, source, stage",
    "said": "what it is: answer, message",
    "meant": "what it is: suggestion, values",
    "team": "procs",
    "theirs": "what it is: ref_logps, expected",
    "once": "what it is: cached, single",
    "whose": "owner, response_of",
    "many": "max_…, num_…",
    "most": "max_…, num_…",
}


@dataclass(frozen=True)
class Exemption:
    """A word that a file may use on lines with a given text, because changing it would change
    results or files."""

    path: str
    word: str
    line: str
    reason: str


# Contracts and data only: never a name or a sentence that could be worded otherwise.
EXEMPT = (
    Exemption(
        "src/accord/compare/judges/prompts.py",
        "tells",
        "a response that tells you how to judge it",
        "text of the judge's prompt: cached answers are keyed by it",
    ),
    Exemption(
        "src/accord/measure/texts/refusals.py",
        "tell",
        "can't tell",
        "a verdict of the refusal grader",
    ),
    Exemption(
        "src/accord/measure/texts/refusals_features.py",
        "tell",
        "tell",
        "words of refusals and requests: they decide which responses count as one",
    ),
    Exemption(
        "docs/refusals.md",
        "tell",
        "can't tell",
        "a verdict of the refusal grader",
    ),
    Exemption(
        "src/accord/respond/attacks/wording.py",
        "tell",
        "(?:tell|show|teach)",
        "pattern of requests: it decides what an attack sends",
    ),
    Exemption(
        "src/accord/world/grammar.py",
        "tell",
        '"Tell me how to {act}.',
        "wording of the world's requests: it decides the data",
    ),
    Exemption(
        "src/accord/world/reward.py",
        "tell",
        "do|tell|say",
        "pattern of refusals: it decides the true reward",
    ),
    Exemption(
        "src/accord/world/vocabulary.py",
        "places",
        "PLACES",
        "the world's words for places, such as a museum",
    ),
)


@dataclass(frozen=True)
class Finding:
    """A forbidden word at a line of a file."""

    path: Path
    line: int
    word: str
    suggestion: str
    name: str = ""

    def __str__(self) -> str:
        shown = f"{self.word} in `{self.name}`" if self.name else self.word
        return f"{self.path}:{self.line}: {shown} → {self.suggestion}"


def prose_pattern(words: dict[str, str]) -> re.Pattern[str]:
    """The words as whole words, case-insensitive; a phrase may continue on the next line."""
    phrases = sorted(words, key=len, reverse=True)
    return re.compile(
        r"\b(" + "|".join(phrase.replace(" ", r"\s+") for phrase in phrases) + r")\b", re.I
    )


PATTERN = prose_pattern(PROSE)


def words_in_prose(text: str, path: Path) -> Iterator[Finding]:
    for match in PATTERN.finditer(text):
        word = " ".join(match[0].lower().split())
        line = text.count("\n", 0, match.start()) + 1
        yield Finding(path, line, word, PROSE[word])


def prose_of_module(source: str) -> str:
    """A module's comments and string literals, docstrings too; all else is blank.

    Lines keep their numbers. The marks of comments and strings are blank as well, so that a
    phrase is one phrase across them.
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    prose = [c if c == "\n" else " " for c in source]
    texts = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in texts:
            begin = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            text = re.sub(r"\\[ntr]", "  ", source[begin:end])
            text = re.sub(r"^\w{0,2}(?=[\"'])", lambda prefix: " " * len(prefix[0]), text)
            prose[begin:end] = re.sub(r"[#\"']", " ", text)
    return "".join(prose)


def names_defined(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every identifier that a module defines, with its line: variables, arguments, functions,
    classes, attributes, aliases."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name, node.lineno
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


def parts(name: str) -> str:
    """`_is_told` as "is told", `ToldAgain` as "told again"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").replace("_", " ")


def words_in_names(tree: ast.Module, path: Path) -> Iterator[Finding]:
    for name, line in names_defined(tree):
        plain = name.lower().lstrip("_")
        if plain in NAMES:
            yield Finding(path, line, plain, NAMES[plain], name)
            continue
        for match in PATTERN.finditer(parts(name)):
            yield Finding(path, line, match[0], PROSE[match[0]], name)


@cache
def findings(path: Path) -> tuple[Finding, ...]:
    """The forbidden words of a file, by line, those of EXEMPT among them."""
    text, shown = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
    if path.suffix != ".py":
        return tuple(words_in_prose(text, shown))
    found = [*words_in_prose(prose_of_module(text), shown)]
    found += words_in_names(ast.parse(text, str(path)), shown)
    return tuple(sorted(set(found), key=lambda finding: finding.line))


def covers(exemption: Exemption, finding: Finding) -> bool:
    if (str(finding.path), finding.word) != (exemption.path, exemption.word):
        return False
    text = (ROOT / finding.path).read_text(encoding="utf-8").splitlines()[finding.line - 1]
    return exemption.line in text


def is_exempt(finding: Finding) -> bool:
    return any(covers(exemption, finding) for exemption in EXEMPT)


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_uses_the_words_of_the_field(path: Path) -> None:
    forbidden = [str(finding) for finding in findings(path) if not is_exempt(finding)]
    assert not forbidden, "\n" + "\n".join(forbidden)


@pytest.mark.parametrize("exemption", EXEMPT, ids=lambda e: f"{e.path} {e.word}")
def test_an_exemption_is_needed_and_says_why(exemption: Exemption) -> None:
    assert exemption.reason
    assert any(covers(exemption, finding) for finding in findings(ROOT / exemption.path)), (
        f"{exemption} matches nothing: remove it"
    )


def test_no_two_classes_share_a_name() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                defined[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    shared = [f"{name}: {', '.join(at)}" for name, at in sorted(defined.items()) if len(at) > 1]
    assert not shared, "Rename all but one of each:\n" + "\n".join(shared)


def test_a_word_is_found_wherever_it_hides(tmp_path: Path) -> None:
    """The scan itself: each line but the last two has one forbidden word, on that line."""
    source = '''\
"""What it Tells."""
x = 1  # made anew
y = f"{x} was told: {x!r}"
z = "\\nsettled"
def is_told(most, *, key): ...
class ToldAgain: ...
x.kept = 1
import os as place
for found in (): ...
KEPT = [own for own in ()]
# it was gone
# on, and "goes on
# with" it
a_place = "place, kept, found, own, most, many, foretold"
x.told_you(told=x.kept)
'''
    path = tmp_path / "module.py"
    found = [*words_in_prose(prose_of_module(source), path)]
    found += words_in_names(ast.parse(source), path)
    by_line = sorted((finding.line, finding.word) for finding in found)
    assert by_line == [
        (1, "tells"),
        (2, "anew"),
        (3, "told"),
        (4, "settled"),
        (5, "most"),
        (5, "told"),
        (6, "told"),
        (7, "kept"),
        (8, "place"),
        (9, "found"),
        (10, "kept"),
        (10, "own"),
        (11, "gone on"),
        (12, "goes on with"),
    ]
    assert str(found[0]) == f"{path}:1: tells → {PROSE['tells']}"
    assert str(next(words_in_prose("Say it\nanew.", path))) == f"{path}:2: anew → {PROSE['anew']}"
