"""The split by prompt: disjoint, complete, of the requested size, the same for the same seed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.split import split_by_prompt
from accord.errors import DataError
from accord.records import Demonstration, Message, Text


def rows(prompts: list[int]) -> list[Demonstration]:
    return [Demonstration(f"prompt {p}", f"answer {i}") for i, p in enumerate(prompts)]


@given(
    prompts=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda p: len(set(p)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_disjoint_and_complete(prompts: list[int], fraction: float, seed: int) -> None:
    records = rows(prompts)
    train, test = split_by_prompt(records, fraction, seed)
    assert {r.prompt for r in train}.isdisjoint({r.prompt for r in test})
    assert sorted(train + test, key=records.index) == records
    assert train == sorted(train, key=records.index)
    # The requested share of the distinct prompts, but at least one on each side.
    distinct = len(set(prompts))
    assert len({r.prompt for r in test}) == min(max(round(fraction * distinct), 1), distinct - 1)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    records = rows(list(range(100)))
    shuffled = random.Random(0).sample(records, len(records))
    held_out = {r.prompt for r in split_by_prompt(records, 0.2, seed=1)[1]}
    assert {r.prompt for r in split_by_prompt(shuffled, 0.2, seed=1)[1]} == held_out
    assert {r.prompt for r in split_by_prompt(records, 0.2, seed=2)[1]} != held_out
    assert len(held_out) == 20


def test_text_and_message_with_the_same_words_are_one_prompt() -> None:
    same = [Demonstration("a", "x"), Demonstration((Message("user", "a"),), "y")]
    train, test = split_by_prompt([*same, Demonstration("b", "z")], 0.5, seed=0)
    assert same in (train, test)


def test_plain_texts_are_split_by_the_text() -> None:
    train, test = split_by_prompt([Text("a"), Text("b"), Text("a")], 0.5, seed=0)
    assert sorted(len(side) for side in (train, test)) == [1, 2]


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError) as caught:
        split_by_prompt(rows([1, 1]), 0.5, seed=0)
    assert str(caught.value) == (
        "2 rows with 1 distinct prompts can't be split into train and test. "
        "Give at least two prompts."
    )
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        split_by_prompt(rows([1, 2]), 1, seed=0)
