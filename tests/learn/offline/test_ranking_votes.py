"""Rankings of the same responses by several annotators: the loss is the mean of each one's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from accord.errors import SettingsError
from accord.learn.offline.length_slope import length_slope
from accord.learn.offline.methods import METHODS
from accord.lm.packing import PromptGroup, pack
from accord.records import borda_ranks
from accord.settings.preferences import DpoSettings, IpoSettings, OrpoSettings, SimpoSettings
from accord.settings.training import RewardSettings
from tests.learn.offline.test_soft_labels import loss_and_gradient
from tests.learn.toys.models import lm_for_method
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups

# Two prompts with four and three responses. Annotators differ, tie some, and agree on nothing in
# the second: a cycle, in which each response has beaten each by the Borda count as often.
GROUPS = random_groups([(4, (1, 9, 3, 5)), (2, (13, 2, 4))], VOCABULARY)
VOTES: list[tuple[tuple[int, ...], ...]] = [
    ((0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 1, 0), (0, 1, 2, 3)),
    ((0, 1, 2), (2, 0, 1), (1, 2, 0)),
]
PANELS = [
    replace(group, ranks=borda_ranks(votes), votes=votes)
    for group, votes in zip(GROUPS, VOTES, strict=True)
]
CASES: dict[str, tuple[str, Any]] = {
    "dpo": ("dpo", DpoSettings(**REQUIRED, beta=0.5)),
    "several losses": ("dpo", DpoSettings(**REQUIRED, loss_type=["hinge", "apo_zero"])),
    "ld and wpo": ("dpo", DpoSettings(**REQUIRED, ld_alpha=0.3, use_weighting=True)),
    "ipo": ("ipo", IpoSettings(**REQUIRED)),
    "simpo": ("simpo", SimpoSettings(**REQUIRED)),
    "orpo": ("orpo", OrpoSettings(**REQUIRED)),
    "bradley-terry": ("reward", RewardSettings(**REQUIRED, center_rewards_coefficient=0.1)),
    "plackett-luce": ("reward", RewardSettings(**REQUIRED, ranking_loss="plackett_luce")),
}


def value_and_gradient(
    method: str, settings: Any, group: PromptGroup
) -> tuple[float, torch.Tensor]:
    (value,), gradient, _ = loss_and_gradient(method, settings, [group])
    return value, gradient


def of_each(group: PromptGroup, votes: Sequence[tuple[int, ...]]) -> list[PromptGroup]:
    """The row that each annotator's ranking is when it is alone."""
    return [replace(group, ranks=vote, votes=()) for vote in votes]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [0, 1])
def test_the_loss_is_the_mean_over_annotators(case: str, number: int) -> None:
    method, settings = CASES[case]
    value, gradient = value_and_gradient(method, settings, PANELS[number])
    rows = of_each(GROUPS[number], VOTES[number])
    alone = [value_and_gradient(method, settings, row) for row in rows]
    assert value == pytest.approx(sum(v for v, _ in alone) / len(alone), rel=1e-5, abs=1e-6)
    mean = torch.stack([g for _, g in alone]).mean(0)
    torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6)


def test_one_annotator_is_the_row_to_the_bit() -> None:
    plain = replace(GROUPS[0], ranks=(0, 1, 1, 2))
    voted = replace(plain, votes=((0, 1, 1, 2),))
    for method, settings in CASES.values():
        value, gradient = value_and_gradient(method, settings, plain)
        again, same = value_and_gradient(method, settings, voted)
        assert value == again
        assert torch.equal(gradient, same)


def test_the_weights_of_pairs() -> None:
    # Of three annotators (1 > 2 > 3, 2 > 1 > 3, 1 > 2 = 3) each gives 1/3, the first two 1/9 to
    # each of their three pairs and the last 1/6 to each of its two.
    group = replace(GROUPS[1], ranks=(0, 1, 2), votes=((0, 1, 2), (1, 0, 2), (0, 1, 1)))
    weights = {(i, j): w for i, j, w in group.weighted_pairs}
    assert weights == {
        (0, 1): pytest.approx(1 / 9 + 1 / 6),
        (1, 0): pytest.approx(1 / 9),
        (0, 2): pytest.approx(2 / 9 + 1 / 6),
        (1, 2): pytest.approx(2 / 9),
    }
    assert sum(weights.values()) == pytest.approx(1)
    lengths = [len(response) for response in group.responses]
    expected = sum(w * lengths[i] for (i, _), w in weights.items())
    assert group.mean_chosen_length == pytest.approx(expected)
    # Metrics are of the direction with more weight.
    preferred = dict(zip(weights, group.preferred_weights, strict=True))
    assert preferred[1, 0] == 0
    assert preferred[0, 1] == pytest.approx(2 / 9 + 1 / 6)
    assert pack([group]).pairs.preferred.sum() == pytest.approx(1)


def test_a_pair_on_which_as_many_say_either_counts_half_for_each() -> None:
    group = replace(GROUPS[1], ranks=(0, 0, 2), votes=((0, 1, 2), (1, 0, 2)))
    pairs = [(i, j) for i, j, _ in group.weighted_pairs]
    preferred = dict(zip(pairs, group.preferred_weights, strict=True))
    assert preferred[0, 1] == preferred[1, 0] == pytest.approx(1 / 6)
    assert preferred[0, 2] == pytest.approx(1 / 3)


def test_equal_responses_are_no_pair_of_any_vote() -> None:
    a, _, c = GROUPS[1].responses
    votes = ((0, 1, 2), (1, 0, 2))
    group = replace(GROUPS[1], responses=(a, a, c), ranks=(0, 0, 2), votes=votes)
    assert sorted(group.weighted_pairs) == [(0, 2, 0.5), (1, 2, 0.5)]


def test_the_length_slope_is_that_of_all_annotators() -> None:
    alone = [
        row for group, votes in zip(GROUPS, VOTES, strict=True) for row in of_each(group, votes)
    ]
    # Four and three annotators of a prompt count one in all: rows repeated to twelve for each.
    repeated = alone[:4] * 3 + alone[4:] * 4
    assert length_slope(PANELS) == pytest.approx(length_slope(repeated), rel=1e-6)


def test_losses_that_compare_pairs_refuse_votes() -> None:
    settings, lm = DpoSettings(**REQUIRED, loss_type="bco_pair"), lm_for_method("dpo", 1)
    with pytest.raises(SettingsError, match=r"has one, 4 votes. Set `filter.labels=majority`"):
        METHODS["dpo"].objective(lm, settings, PANELS[:1], lambda _: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("votes", "ranks"),
    [
        # Wins less losses: 2 + 0, 0 + 2, −2 − 2.
        (((0, 1, 2), (1, 0, 2)), (0, 0, 2)),
        # 2 + 0 + 2, 0 + 2 + 0, and the rest.
        (((0, 1, 2), (1, 0, 2), (0, 1, 2)), (0, 1, 2)),
        (((0, 1, 1),), (0, 1, 1)),
        (((0, 5, 7),), (0, 1, 2)),
        # 2 − 2, −1 + 1 and −1 + 1: two votes that are each other's opposite.
        (((0, 1, 1), (1, 0, 0)), (0, 0, 0)),
        (VOTES[1], (0, 0, 0)),
    ],
)
def test_the_borda_count(votes: tuple[tuple[int, ...], ...], ranks: tuple[int, ...]) -> None:
    assert borda_ranks(votes) == ranks
