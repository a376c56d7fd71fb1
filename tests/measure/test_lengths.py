"""Rewards at equal length, by hand."""

from __future__ import annotations

import math

import pytest

from accord.measure.texts.lengths import LengthBin, length_bins, length_edges, length_matched_gain


def text(count: int) -> str:
    return " ".join(["w"] * count)


def test_bins_cover_every_length_once() -> None:
    texts = [text(n) for n in range(11)]
    edges = length_edges(texts)
    assert edges == [0, 2, 4, 6, 8, 11]  # quantiles of 0..10 at 0, .2, .4, .6, .8; and the end
    bins = length_bins(texts, edges, true_reward=list(range(11)))
    assert sum(b.responses for b in bins) == 11
    assert bins[0] == LengthBin(0, 1, 2, 0.5, None)
    assert bins[-1] == LengthBin(8, 10, 3, 9.0, None)
    with pytest.raises(ValueError, match="no texts"):
        length_edges([])


def test_a_gain_due_to_length_alone_vanishes_at_equal_length() -> None:
    # The reward is the length. One model is long, the other short; within each bin the
    # rewards are equal.
    short = (LengthBin(1, 9, 75, 5.0, None), LengthBin(10, 20, 15, 15.0, None))
    long = (LengthBin(1, 9, 15, 5.0, None), LengthBin(10, 20, 75, 15.0, None))
    assert length_matched_gain(long, short) == 0


def test_gains_are_weighted_by_the_smaller_count_and_small_bins_are_left_out() -> None:
    bins = (
        LengthBin(1, 2, 30, 1.0, 3.0),
        LengthBin(3, 4, 90, 2.0, None),
        LengthBin(5, 6, 4, 99.0, None),
    )
    reference = (
        LengthBin(1, 2, 90, 0.5, 1.0),
        LengthBin(3, 4, 90, 1.0, None),
        LengthBin(5, 6, 90, 0.0, None),
    )
    # (30·0.5 + 90·1.0) / 120; the third bin has only 4 responses of the first model.
    assert length_matched_gain(bins, reference) == pytest.approx(35 / 40)
    assert length_matched_gain(bins, reference, "reward_model_score") == pytest.approx(2.0)
    assert math.isnan(length_matched_gain(bins[2:], reference[2:]))
    few = (LengthBin(1, 2, 29, 1.0, None),)  # too few for a number worth reading
    assert math.isnan(length_matched_gain(few, reference))
