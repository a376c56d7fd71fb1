"""Random noise in the request's text, for best-of-N (Hughes et al. 2024).

Each attempt draws its own noise. The three parts are those of the paper, with its probabilities:
the inner letters of a word are scrambled, letters change their case, and characters move by one in
ASCII.
"""

from __future__ import annotations

import random
import re

from accord.respond.attacks.turns import Occasion, Turns, request_of, with_request

SCRAMBLED, CASED, MOVED = 0.6, 0.6, 0.06
SHORTEST = 4  # letters of a word that is scrambled
_PRINTABLE = range(32, 127)


def text_noise(turns: Turns, occasion: Occasion) -> Turns:
    """The request with noise; another attempt has another."""
    return with_request(turns, add_noise(request_of(turns), occasion.rng))


def add_noise(text: str, rng: random.Random) -> str:
    """A text with the three kinds of noise, one after another."""
    text = re.sub(r"\w+", lambda word: _scramble(word[0], rng), text)
    text = "".join(_change_case(c, rng) for c in text)
    return "".join(_move(c, rng) for c in text)


def _scramble(word: str, rng: random.Random) -> str:
    if len(word) < SHORTEST or rng.random() >= SCRAMBLED:
        return word
    inner = list(word[1:-1])
    rng.shuffle(inner)
    return word[0] + "".join(inner) + word[-1]


def _change_case(character: str, rng: random.Random) -> str:
    if not character.isalpha() or rng.random() >= CASED:
        return character
    other = character.lower() if character.isupper() else character.upper()
    return other if len(other) == 1 else character


def _move(character: str, rng: random.Random) -> str:
    if ord(character) not in _PRINTABLE or rng.random() >= MOVED:
        return character
    moved = ord(character) + rng.choice((-1, 1))
    return chr(moved) if moved in _PRINTABLE else character
