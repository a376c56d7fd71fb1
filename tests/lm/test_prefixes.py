"""Beginnings of prompts that were read before: which blocks are found, and what is removed."""

from __future__ import annotations

import torch
from torch import nn

from accord.lm.attention.prefixes import BLOCK, PrefixPool, ReusedBlocks
from accord.lm.attention.store import LayerKey

LAYER: LayerKey = (nn.Identity(), 1)


def prompt(*blocks: int, rest: int = 1) -> tuple[int, ...]:
    """A prompt of whole blocks, each of one token repeated, and some tokens more."""
    return tuple(t for b in blocks for t in [b] * BLOCK) + (99,) * rest


def read(pool: PrefixPool, *prompts: tuple[int, ...]) -> list[int]:
    """Read prompts; a key and a value is its token's number. Returns the tokens reused of each."""
    reused = ReusedBlocks(pool, prompts)
    new = [t for ids, n in zip(prompts, reused.past, strict=True) for t in ids[n:]]
    keys = torch.tensor(new, dtype=torch.float32)[None, :, None].expand(2, -1, 3)
    past = reused.exchange(LAYER, keys, keys + 0.5)
    expected = [t for ids, n in zip(prompts, reused.past, strict=True) for t in ids[:n]]
    if past is None:
        assert not expected
    else:
        assert past[0].shape == (2, len(expected), 3)
        assert past[0][1, :, 2].tolist() == expected
        assert past[1][0, :, 0].tolist() == [t + 0.5 for t in expected]
    return reused.past


def test_full_blocks_of_what_was_read_are_found() -> None:
    pool = PrefixPool(100)
    assert read(pool, prompt(1, 2, 3)) == [0]
    assert read(pool, prompt(1, 2, 4), prompt(1, 5), prompt(2, 3)) == [2 * BLOCK, BLOCK, 0]
    assert read(pool, prompt(1, 2, 4, 6), prompt(1, 5, 6), prompt(2)) == [
        3 * BLOCK,
        2 * BLOCK,
        BLOCK,
    ]
    assert pool.tokens_reused == 9 * BLOCK


def test_the_last_token_is_always_read() -> None:
    pool = PrefixPool(100)
    read(pool, prompt(1, 2, rest=0))
    assert read(pool, prompt(1, 2, rest=0), prompt(1, 2), prompt(1, rest=0)) == [16, 32, 0]


def test_the_same_block_after_another_beginning_is_another_one() -> None:
    pool = PrefixPool(100)
    read(pool, prompt(1, 3))
    assert read(pool, prompt(2, 3)) == [0]
    assert read(pool, prompt(2, 3), prompt(3)) == [2 * BLOCK, 0]


def test_equal_prompts_of_one_pass_are_stored_once() -> None:
    pool = PrefixPool(100)
    assert read(pool, prompt(1, 2), prompt(1, 2), prompt(1, 3)) == [0, 0, 0]
    assert len(pool.layers[LAYER][0]) == 3
    assert read(pool, prompt(1, 2), prompt(1, 3)) == [2 * BLOCK, 2 * BLOCK]


def test_the_block_that_was_not_used_for_longest_makes_room() -> None:
    pool = PrefixPool(3)
    read(pool, prompt(1, 2))
    read(pool, prompt(3))
    assert read(pool, prompt(1, 2)) == [2 * BLOCK]
    read(pool, prompt(4))  # in the place of 3
    assert len(pool.layers[LAYER][0]) == 3
    assert read(pool, prompt(3)) == [0]  # in the place of 2, as no block goes before its followers
    assert read(pool, prompt(1, 2)) == [BLOCK]


def test_what_follows_a_removed_block_is_never_found_behind_its_successor() -> None:
    pool = PrefixPool(2)
    read(pool, prompt(1, 2))
    pool.reuse([prompt(1)])  # 2 is older now
    read(pool, prompt(3))
    assert read(pool, prompt(1, 3)) == [BLOCK]
    assert read(pool, prompt(3, 2)) in ([0], [BLOCK])  # never 2 from behind 1


def test_a_pool_smaller_than_a_pass_keeps_what_the_pass_reads() -> None:
    pool = PrefixPool(2)
    read(pool, prompt(1, 2))
    # Nothing is free: both blocks are read here, and `read` checks their contents.
    assert read(pool, prompt(1, 2, 3), prompt(4, 5, 6)) == [2 * BLOCK, 0]
    assert read(pool, prompt(1, 2, 3)) == [2 * BLOCK]


def test_nothing_is_found_in_a_cleared_pool() -> None:
    pool = PrefixPool(5)
    read(pool, prompt(1, 2))
    pool.clear()
    assert read(pool, prompt(1, 2)) == [0]
    assert read(pool, prompt(1, 2)) == [2 * BLOCK]
