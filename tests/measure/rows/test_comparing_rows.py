"""Words, near-duplicates, contradictions and overlaps against plain implementations with sets."""

from __future__ import annotations

import random

import numpy as np
import pytest

from accord.measure.rows.near_duplicates import band_keys, minima, near_duplicates, similarity
from accord.measure.rows.orders import contradictions, cycles
from accord.measure.rows.overlap import evaluation_texts, overlaps
from accord.measure.rows.words import hash_words, n_grams, shingles


def test_words_are_runs_of_letters_whatever_their_case_and_marks() -> None:
    words = hash_words(
        ["Hello, WORLD!", "", "hello  world", "日本 ok", "a\0b", "naïve हिन्दी", "..."]
    )
    assert words.counts().tolist() == [2, 0, 2, 3, 2, 2, 0]
    first, again = (words.hashes[words.starts[i] :][:2] for i in (0, 2))
    assert first.tolist() == again.tolist()
    # Of four words, two are 3-grams; a shorter text has none, and shingles reach into its end.
    four = hash_words(["a b c d", "a b"])
    assert np.diff(n_grams(four, 3)[1]).tolist() == [2, 0]
    assert np.diff(shingles(four)[1]).tolist() == [4, 2]


def jaccard(first: str, second: str) -> float:
    """The similarity of two texts' sets of three words, with two words for each text's end."""
    one, two = (
        {tuple([*text.split(), "", ""][i : i + 3]) for i in range(len(text.split()))}
        for text in (first, second)
    )
    return len(one & two) / len(one | two)


def test_signatures_estimate_the_similarity_of_sets() -> None:
    rng = random.Random(0)
    errors = []
    for share in np.linspace(0, 1, 40):
        words = [f"w{rng.randrange(500)}" for _ in range(120)]
        other = words[: int(share * 120)] + [f"v{rng.randrange(500)}" for _ in range(60)]
        texts = [" ".join(words), " ".join(other)]
        signature = minima(*shingles(hash_words(texts)))
        estimate = similarity(*(signature[i : i + 1].astype(np.uint16) for i in (0, 1)))[0]
        errors.append(estimate - jaccard(*texts))
    # The standard error of one estimate is at most √(¼/64) = 0.0625, that of 40's mean 0.01.
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 0.0625 * 1.4


def test_near_duplicates_are_close_in_prompt_and_responses() -> None:
    rng = random.Random(1)
    long = [" ".join(f"w{rng.randrange(5000)}" for _ in range(40)) for _ in range(9)]
    edited = long[1].replace(long[1].split()[20], "other", 1)
    rows = [  # a prompt, and the responses
        (long[0], long[1]),
        (long[0], edited),  # nearly row 0: one word of 40, so 3 of 40 sequences
        (long[0], long[2]),  # another response to its prompt
        (long[3], long[1]),  # its response to another prompt
        (long[4], long[5]),
    ]
    prompts, responses = (minima(*shingles(hash_words([row[i] for row in rows]))) for i in (0, 1))
    keys = band_keys(np.minimum(prompts, responses))
    result = near_duplicates(
        iter(keys.T),
        np.arange(len(rows)),
        lambda at: (prompts[at].astype(np.uint16), responses[at].astype(np.uint16)),
    )
    assert (result.rows.tolist(), result.like.tolist()) == ([1], [0])
    assert result.similarity[0] == pytest.approx(jaccard(long[1], edited), abs=3 * 0.05)


def test_contradictions_and_cycles_against_reachability() -> None:
    rng = random.Random(2)
    for _ in range(30):
        edges = [tuple(rng.sample(range(7), 2)) for _ in range(rng.randrange(1, 12))]
        winners, losers = np.array(edges, np.uint64).T
        both = {i for i, (a, b) in enumerate(edges) if (b, a) in edges}
        at, against = contradictions(winners, losers)
        assert set(at.tolist()) == both
        assert all(edges[j] == edges[i][::-1] for i, j in zip(at, against, strict=True))
        # A preference a > b lies on a cycle where a can be reached from b.
        reach = {(a, b) for i, (a, b) in enumerate(edges) if i not in both}
        single = set(reach)
        for _ in range(7):
            reach |= {(a, d) for a, b in reach for c, d in reach if b == c}
        expected = {i for i, (a, b) in enumerate(edges) if (a, b) in single and (b, a) in reach}
        assert set(cycles(winners, losers)[0].tolist()) == expected


def test_an_evaluation_text_has_to_occur_whole_or_by_half_of_its_8_grams() -> None:
    long = " ".join(f"w{i}" for i in range(30))  # 23 8-grams, of which 12 are needed: 19 words
    sets = evaluation_texts(
        [long, "How can I kill a Python process?", "how are you", "w1 w2 w3 w4"]
    )
    rows = [
        "please: how can i KILL a python process",
        "How are you?",
        "so how are you",  # three words count only where they are all of it
        "x " + " ".join(long.split()[:19]),
        " ".join(long.split()[5:23]),  # 18 words hold 11 8-grams
        "w1, w2. W3 w4",
    ]
    words = hash_words(rows)
    assert overlaps(words, sets) == [(0, 1), (1, 2), (3, 0), (5, 3)]
