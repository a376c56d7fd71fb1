"""The Vendi score, classes of answers, entropy and log-odds, against published and closed forms."""

import math

import numpy as np
import pytest

from accord.measure.texts.classes import class_sizes, expected_classes, word_entropy
from accord.measure.texts.log_odds import log_odds, risen_phrases
from accord.measure.texts.vendi import vendi_of_texts, vendi_score


def test_vendi_of_three_of_which_two_resemble_each_other() -> None:
    assert vendi_score([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]) == pytest.approx(2.1573, abs=5e-5)


def test_vendi_of_three_pairs_of_numbers() -> None:
    numbers = np.array([0, 0, 10, 10, 20, 20])
    similarity = np.exp(-np.abs(numbers[:, None] - numbers[None, :]))
    assert vendi_score(similarity) == pytest.approx(2.9999, abs=1e-4)


def test_vendi_of_texts() -> None:
    assert vendi_of_texts(["a b c"] * 5) == pytest.approx(1)
    assert vendi_of_texts(["a b", "c d", "e f", "g h"]) == pytest.approx(4)
    # Two texts that share one of three features: eigenvalues (1 ± s)/2 for s = 1/3.
    s = 1 / 5  # {a, b, ab} and {a, c, ac} share one of five
    shares = np.array([(1 + s) / 2, (1 - s) / 2])
    expected = math.exp(-float(np.sum(shares * np.log(shares))))
    assert vendi_of_texts(["a b", "a c"]) == pytest.approx(expected)
    assert math.isnan(vendi_of_texts([]))
    with pytest.raises(ValueError, match="square"):
        vendi_score([[1, 2, 3]])


def test_answers_of_one_class_resemble_its_first() -> None:
    texts = ["take the red bus at ten", "sing a song", "take the red bus at nine", "sing a song"]
    assert class_sizes(texts) == [2, 2]
    assert class_sizes(["a b c", "d e f", "g h i"]) == [1, 1, 1]


def test_expected_classes_of_ten_drawn_from_more() -> None:
    assert expected_classes([10]) == 1
    assert expected_classes([1] * 10) == 10
    assert expected_classes([1] * 30) == pytest.approx(10)
    # 20 texts in two classes of 19 and 1: the rare one is among 10 of 20 in a half of all draws.
    assert expected_classes([19, 1]) == pytest.approx(1.5)
    assert math.isnan(expected_classes([9]))
    rng = np.random.default_rng(0)
    sizes = [7, 5, 3, 2, 1, 1]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    drawn = [len(set(rng.choice(labels, 10, replace=False))) for _ in range(4000)]
    assert expected_classes(sizes) == pytest.approx(np.mean(drawn), abs=0.05)


def test_entropy_of_words_in_nats() -> None:
    assert word_entropy(["a b", "c d"]) == pytest.approx(math.log(4))
    assert word_entropy(["a a a a"]) == 0
    assert word_entropy(["a b", "c d"], tokens=2) == pytest.approx(math.log(2))
    assert math.isnan(word_entropy([]))


def test_log_odds_by_hand() -> None:
    # A word 30 times in 1000 and 10 times in 1000, prior 20 of 1000: odds 50/1950 and 30/1970.
    expected = (math.log(50 / 1950) - math.log(30 / 1970)) / math.sqrt(1 / 50 + 1 / 30)
    assert log_odds(30, 1000, 10, 1000, 20, 1000) == pytest.approx(expected)
    assert log_odds(10, 1000, 30, 1000, 20, 1000) == pytest.approx(-expected)


def test_a_planted_phrase_is_named_as_a_whole() -> None:
    before = [f"the answer is number {i} of them" for i in range(200)]
    after = [f"{text} and have a nice day" if i % 5 else text for i, text in enumerate(before)]
    first = risen_phrases(before, after)[0]
    assert "have" in first.phrase.split()
    assert len(first.phrase.split()) == 4
    assert (first.share_before, first.share_after) == (0, 0.8)
    assert first.z > 5


def test_nothing_rises_between_equal_texts() -> None:
    texts = [f"the answer is {i}" for i in range(50)]
    assert risen_phrases(texts, texts) == []
    assert risen_phrases([], texts) == []
