"""What is wrong with one text by its form, and texts that only look like it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from accord.measure.rows.noise import WORDS, PairFeatures, label_noise, pair_features
from accord.measure.rows.texts import (
    count_markup,
    echoes,
    ends_in_an_answer,
    is_cut,
    template_token,
    thought_tag,
    turn_mark,
)
from accord.measure.rows.words import hash_words
from accord.records import Message


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("Sure.<|im_end|>", "<|im_end|>"),
        ("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ("[INST] hi [/INST]", "[INST]"),
        ("<s>hi", "<s>"),
        ("bye</s>\n", "</s>"),
        ("an <s>old</s> price", ""),
        ("a < b | c > d, x[INDEX], [1], <b>", ""),
    ],
)
def test_template_tokens(text: str, token: str) -> None:
    assert template_token(text) == token


def test_turns_and_thoughts_in_a_response() -> None:
    assert turn_mark("Yes.\n\nHuman: and then?") == "Human:"
    assert turn_mark("Assistant: Sure") == "Assistant:"
    assert turn_mark("The user: a friend. Dear Human: no.\nAnna: hi") == ""
    assert thought_tag("I see.</think>Yes") == "</think>"
    assert thought_tag("I think <3") == ""
    assert ends_in_an_answer((Message("user", "a"), Message("assistant", "b")))
    assert not ends_in_an_answer((Message("user", "a"),))
    assert ends_in_an_answer("Human: hi\nAssistant: I would say that")
    assert not ends_in_an_answer("Human: hi\nAssistant: hello to you too\nHuman: why\nAssistant:")


def test_echo_cut_and_markup() -> None:
    asked = "How do I  repair a kettle at home?"
    assert echoes(asked, "how do I repair a KETTLE at home?\nFirst, …")
    assert not echoes(asked, "How do I repair it? First, …")
    assert not echoes("Hi there", "Hi there, friend")  # too short to be a repeated question
    assert is_cut("First boil it. Then take the lid and put it on the")
    assert is_cut("Look: ```python\nprint(1)")
    for whole in (
        "First boil it. Then take the lid off.",
        "First boil it. Then:\n- take the lid and put it on the",
        "a poem without any marks that ends as it began and goes",
        "Boil it. See https://example.org/a for what comes after that step",
        "First count the pans. Then the answer is 19",
        "Boil it for long enough.\n\nBest wishes,\nAnna",
        "",
    ):
        assert not is_cut(whole)
    assert count_markup("# A\n- b\n* c\n1. **d** and **e**\nplain - text") == 6


def test_labels_against_what_the_other_prompts_say_are_unlikely() -> None:
    rng = np.random.default_rng(0)
    count, wrong = 600, 30
    texts = []
    for i in range(count):
        good, bad = (
            f"{word} {' '.join(f'w{k}' for k in rng.integers(0, 300, 8))}"
            for word in ("good fine", "bad poor")
        )
        texts += [bad, good] if i < wrong else [good, bad]
    first = np.arange(0, 2 * count, 2)
    features = pair_features(hash_words(texts), first, first + 1, np.zeros((count, 2)))
    noise = label_noise(np.arange(count) % 5, lambda: iter([(np.arange(count), features)]))
    assert noise.informative
    # All of the signal is in four words that never err but in the 5% of swapped labels.
    assert noise.unlikely().tolist() == list(range(wrong))
    swapped = pair_features(hash_words(texts), first + 1, first, np.zeros((count, 2)))
    assert (swapped.matrix() + features.matrix()).count_nonzero() == 0  # antisymmetric


def test_labels_that_words_do_not_explain_are_not_judged() -> None:
    rng = np.random.default_rng(1)
    index = rng.integers(0, 50, 4000).astype(np.uint16)
    sign = np.where(rng.random(4000) < 0.5, 1, -1).astype(np.int8)
    features = PairFeatures(index, sign, np.full(400, 10), np.zeros((400, 2), np.float32))
    noise = label_noise(np.arange(400) % 5, lambda: iter([(np.arange(400), features)]))
    assert not noise.informative
    assert len(noise.unlikely()) == 0
    assert special.logit(noise.probability).max() < 10
    assert features.matrix().shape == (400, WORDS + 2)
