"""How episodes are laid out, sampled, and split into forward passes."""

from __future__ import annotations

import torch

from accord.learn.online.episodes import (
    Episodes,
    length_mask,
    micro_batches,
    pad_flat,
    select_groups,
)
from accord.learn.online.loop import collect_episodes
from accord.learn.online.methods import ONLINE
from accord.lm.packing import PromptGroup
from accord.respond.protocol import Sample
from accord.respond.text import response_text
from tests.learn.toys.models import NumberTokenizer
from tests.learn.toys.roles import PROMPT_ORDER, make_roles
from tests.learn.toys.settings import online_settings


def test_padded_values_are_in_order_of_response_and_token() -> None:
    mask = length_mask([2, 3, 1])
    assert mask.tolist() == [[True, True, False], [True] * 3, [True, False, False]]
    flat = torch.arange(1.0, 7.0)
    padded = pad_flat(flat, mask)
    assert padded.tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0]]
    assert torch.equal(padded[mask], flat)


def test_the_text_of_a_sample_leaves_eos_out() -> None:
    tokenizer = NumberTokenizer(2)
    assert response_text(Sample((5, 6, 2), (0.0,) * 3, True), tokenizer) == "5 6"
    assert response_text(Sample((5, 6), (0.0,) * 2, False), tokenizer) == "5 6"


def test_episodes_are_a_function_of_seed_and_iteration() -> None:
    def collect(iteration: int, seed: int = 0) -> Episodes:
        settings = online_settings(seed=seed)
        positions = range(iteration * 8, iteration * 8 + 8)
        episodes, _ = collect_episodes(
            ONLINE["ppo"], make_roles(), PROMPT_ORDER, positions, settings, iteration
        )
        return episodes

    first = collect(0)
    assert collect(0).texts == first.texts
    assert collect(1).texts != first.texts
    assert collect(0, seed=1).texts != first.texts
    torch.testing.assert_close(collect(0).old_logps, first.old_logps)
    assert bool((first.entropy[first.mask] > 0).all())


def test_responses_that_end_with_eos_are_finished() -> None:
    # Any token below 24 is an EOS of these roles: some responses end, others are cut.
    settings = online_settings("rloo", max_new_tokens=3)
    episodes, _ = collect_episodes(
        ONLINE["rloo"], make_roles("rloo"), PROMPT_ORDER, range(3), settings, iteration=0
    )
    ends_with_eos = [r[-1] < 24 for g in episodes.groups for r in g.responses]
    assert set(ends_with_eos) == {True, False}
    assert episodes.finished.tolist() == ends_with_eos


def test_passes_have_whole_groups_where_they_fit() -> None:
    groups = [PromptGroup((1,) * 4, ((2,) * 3,) * 3), PromptGroup((1,) * 2, ((3,) * 5,) * 3)]
    assert micro_batches(groups, [1, 0], count=1, max_tokens=None) == [[0, 1, 2, 3, 4, 5]]
    assert micro_batches(groups, [0, 1], count=2, max_tokens=None) == [[3, 4, 5], [0, 1, 2]]
    assert micro_batches(groups, [0, 1], count=8, max_tokens=None) == [[3, 4, 5], [0, 1, 2]]
    # 13 and 17 tokens. Of at most 13 the second does not fit: 2 + 5 + 5, and 2 + 5.
    capped = micro_batches(groups, [0, 1], count=1, max_tokens=13)
    assert sorted(capped) == [[0, 1, 2], [3, 4], [5]]
    for rows in capped:
        assert sum(g.num_tokens for g in select_groups(groups, rows)) <= 13
    # Responses of one prompt in the same pass share it.
    assert [len(g.responses) for g in select_groups(groups, [0, 2, 3, 4, 5])] == [2, 3]
