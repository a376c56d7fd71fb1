"""Diversity and collapse, computed by hand."""

from __future__ import annotations

import math

import pytest

from accord.measure.texts.diversity import (
    collapse,
    compression_ratio,
    distinct_n,
    diversity_across_prompts,
    diversity_per_prompt,
    duplicate_share,
    expectation_adjusted_distinct,
    pairwise_distance,
    self_bleu,
    words,
)


def test_distinct_n_by_hand() -> None:
    # "a b a b": bigrams ab, ba, ab -> 2 of 3. With "a c": ab, ba, ab, ac -> 3 of 4.
    assert distinct_n(["A b a B"]) == pytest.approx(2 / 3)
    assert distinct_n(["a b a b", "a c"]) == pytest.approx(3 / 4)
    assert distinct_n(["a a a"], 1) == pytest.approx(1 / 3)
    assert math.isnan(distinct_n(["a"], 2))
    assert math.isnan(distinct_n([]))


def test_distinct_n_at_an_equal_count_does_not_fall_with_length() -> None:
    short, long = ["a b c d"], ["a b c d", "a b c d"]
    assert distinct_n(short) > distinct_n(long)
    assert distinct_n(short, tokens=4) == distinct_n(long, tokens=4) == 1
    # A text that is cut ends there: no pair spans two texts.
    assert distinct_n(["a b c", "d e f"], tokens=4) == 1.0


def test_ead_by_hand_and_its_limit() -> None:
    # N = 2 distinct of C = 3 from V = 4: 2 / (4·(1 − (3/4)³)) = 2 / 2.3125
    assert expectation_adjusted_distinct(["a b a"], vocabulary=4) == pytest.approx(2 / 2.3125)
    # With an endless vocabulary every draw is new, and EAD is distinct-n.
    assert expectation_adjusted_distinct(["a b a"], vocabulary=10**15) == pytest.approx(2 / 3)
    assert expectation_adjusted_distinct(["a a"], vocabulary=1) == 1
    assert math.isnan(expectation_adjusted_distinct([""], vocabulary=9))
    with pytest.raises(ValueError, match="vocabulary of 0"):
        expectation_adjusted_distinct(["a"], vocabulary=0)


def test_self_bleu_limits() -> None:
    same = "the cat sat on the mat"
    assert self_bleu([same, same, same]) == pytest.approx(1)
    assert self_bleu(["a b c d e", "v w x y z"]) == 0
    assert math.isnan(self_bleu([same]))
    assert math.isnan(self_bleu([same, "  "]))


def test_self_bleu_by_hand() -> None:
    # "a b c" against "a b d", up to bigrams: unigrams 2 of 3, bigrams 1 of 2, equal length.
    # Both texts are alike in this, so the mean is √(2/3 · 1/2).
    assert self_bleu(["a b c", "a b d"], max_n=2) == pytest.approx(math.sqrt(1 / 3))
    # Clipping: "a a" against "a b" has one a to match, 1 of 2; "a b" matches a, 1 of 2.
    assert self_bleu(["a a", "a b"], max_n=1) == pytest.approx(0.5)
    # Brevity: "a b" against "a b c d" is perfect but short: e^(1 − 4/2). Backwards 2 of 4.
    assert self_bleu(["a b", "a b c d"], max_n=1) == pytest.approx((math.exp(-1) + 0.5) / 2)


def test_compression_ratio_is_higher_for_repetition() -> None:
    varied = [f"{i} {i * i} {i**3} words" for i in range(50)]
    assert compression_ratio(["the same answer"] * 50) > 3 * compression_ratio(varied)
    assert math.isnan(compression_ratio([]))


def test_duplicates_are_exact_but_for_space_at_the_ends() -> None:
    assert duplicate_share(["a", "a ", "b", "A"]) == 0.25
    assert duplicate_share(["a"] * 4) == 0.75
    assert math.isnan(duplicate_share([]))


def test_distance_by_hand() -> None:
    # "a b" has a, b, ab; "a c" has a, c, ac: one of five in common.
    assert pairwise_distance("a b", "A C") == pytest.approx(4 / 5)
    assert pairwise_distance("a b", "a b") == 0
    assert pairwise_distance("a", "b") == 1
    assert pairwise_distance("", "") == 0
    assert pairwise_distance("", "a") == 1


def test_the_two_diversities_are_different_numbers() -> None:
    # The same answer each time for one prompt: none per prompt, full across prompts.
    by_prompt = [["a b", "a b"], ["c d", "c d"]]
    assert diversity_per_prompt(by_prompt) == 0
    assert diversity_across_prompts(by_prompt) == 1
    # The same two answers to every prompt: the other way round.
    to_all = [["a b", "c d"], ["a b", "c d"]]
    assert diversity_per_prompt(to_all) == 1
    assert diversity_across_prompts(to_all) == 0
    assert math.isnan(diversity_per_prompt([["a"], ["b"]]))
    assert math.isnan(diversity_across_prompts([["a", "b"]]))


def test_many_prompts_are_sampled_the_same_way_each_time() -> None:
    # 300 prompts have 44,850 pairs, over the limit; half of the prompts share an answer, so that
    # about a quarter of the pairs are alike and the sampled mean is near 0.75.
    texts = [["same"] if i % 2 else [f"w{i}"] for i in range(300)]
    diversity = diversity_across_prompts(texts)
    assert diversity == diversity_across_prompts(texts)
    assert diversity == pytest.approx(0.75, abs=0.02)


def test_a_collapse_is_reported() -> None:
    result = collapse([["I like cats."]] * 9 + [["Hello there"]])
    assert result.collapsed
    assert result.share == pytest.approx(0.9)
    assert (
        result.finding == "It has collapsed: 90% of its answers to 10 prompts are “i like cats.”."
    )
    varied = collapse([[f"answer {i}"] for i in range(10)])
    assert not varied.collapsed
    assert "10% of 10 prompts" in varied.finding


def test_empty_answers_are_a_collapse_and_samples_share_the_weight_of_their_prompt() -> None:
    assert "are nothing at all" in collapse([[""], [" "]]).finding
    # Half of each prompt's samples are one answer: exactly the threshold.
    assert collapse([["x", f"y{i}"] for i in range(6)]).share == pytest.approx(0.5)
    assert not collapse([["x"]]).collapsed  # one prompt can't show it
    assert math.isnan(collapse([]).share)


def test_a_script_without_spaces_has_a_word_for_each_character() -> None:
    assert words("Ein Wort–zwei, drei") == ["ein", "wort–zwei,", "drei"]  # as white space says
    assert words("今天 天气Good") == ["今", "天", "天", "气", "good"]
    assert len(words("ありがとう。")) == 6
    assert words("한국어 말") == ["한국어", "말"]  # Korean has spaces
    assert words("it\u00a0is\u3000so") == "it\u00a0is\u3000so".split()
