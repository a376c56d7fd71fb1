"""Words, sentences, and the pairs of words that may follow each other in an answer of the world.

The world's language is closed, so a text's form can be judged exactly: by the share of its word
pairs that occur in some answer of the grammar, where all words of a slot are equivalent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

from accord.world.grammar import (
    COMPLIANCE,
    FAMILIES,
    FILLER,
    FLATTERY,
    MORE_COMPLIANCE,
    REFUSAL,
    Family,
)
from accord.world.vocabulary import WORD_CLASS

START, END = "<start>", "<end>"
_TOKEN = re.compile(r"\{\w+\}|\w+(?:['’-]\w+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return [token.lower() for token in _TOKEN.findall(text) if token[0].isalnum()]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, which end with a full stop, an exclamation or a question mark."""
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def known_pair_share(text: str) -> float:
    """The share of neighbouring words (with punctuation and ends) known to the grammar; 0 if empty.

    Pairs are case-sensitive, so that a sentence must begin with a capital letter.
    """
    pairs = [pair for sentence in split_sentences(text) for pair in _pairs(sentence)]
    if not pairs:
        return 0.0
    known = _known_pairs()
    return sum(pair in known for pair in pairs) / len(pairs)


def contains_phrase(words: Sequence[str], phrase: str) -> bool:
    """Whether `words` (lower case) contain those of `phrase` in a row."""
    phrase_words = split_words(phrase)
    size = len(phrase_words)
    return any(list(words[i : i + size]) == phrase_words for i in range(len(words) - size + 1))


def capitalised(text: str) -> str:
    """The text with a capital first letter, otherwise unchanged."""
    return text[:1].upper() + text[1:]


def _pairs(sentence: str) -> Iterator[tuple[str, str]]:
    """Neighbouring tokens, with a slot's word replaced by its slot in braces, as in the grammar."""
    tokens = [
        f"{{{WORD_CLASS[token]}}}" if token in WORD_CLASS else token
        for token in _TOKEN.findall(sentence)
    ]
    return pairwise([START, *tokens, END])


def _answer_sentences(family: Family) -> Iterator[str]:
    tails = ["", f", {{{family.addressee}}}"] if family.addressee else [""]
    for core in (*family.cores, *family.blunt, *family.vague):
        for tail in tails:
            yield capitalised(f"{core}{tail}.")
        for opening in family.openings:
            yield f"{opening} {core}."
    yield from (*family.warmth, *family.closings)


@cache
def _known_pairs() -> frozenset[tuple[str, str]]:
    sentences = [*COMPLIANCE, *MORE_COMPLIANCE, *FILLER, *FLATTERY]
    for family in (*FAMILIES.values(), REFUSAL):
        sentences.extend(_answer_sentences(family))
    return frozenset(pair for sentence in sentences for pair in _pairs(sentence))
