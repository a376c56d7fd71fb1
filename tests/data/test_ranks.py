"""Ranks from scores, and labels from ranks: values by hand."""

from __future__ import annotations

from accord.records import labels_from_ranks, ranks_from_scores


def test_a_rank_is_the_number_of_higher_scores() -> None:
    assert ranks_from_scores([0.5, 2.0, -1.0]) == (1, 0, 2)
    # Two share the first rank, so the third response has rank 2.
    assert ranks_from_scores([1, 0, 1]) == (0, 2, 0)
    assert ranks_from_scores([3.0, 3.0]) == (0, 0)
    assert ranks_from_scores([]) == ()


def test_a_label_says_whether_a_response_beats_more_than_beat_it() -> None:
    # The best of four beats 3, the next one beats 2 and is beaten by 1, and so on downwards.
    assert labels_from_ranks((2, 0, 3, 1)) == [False, True, False, True]
    # The middle of three beats as many as beat it, and so do responses that all tie.
    assert labels_from_ranks((1, 0, 2)) == [None, True, False]
    assert labels_from_ranks((0, 0, 0)) == [None, None, None]
    # Two share the first rank: each beats 1 and is beaten by none.
    assert labels_from_ranks((0, 0, 2)) == [True, True, False]
