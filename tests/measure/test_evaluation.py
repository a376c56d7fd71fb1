"""Rows of evaluation.json from measurements small enough to follow by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from accord.measure.evaluation import evaluation_rows, reward_model_accuracy
from accord.measure.responses import ModelResponses
from accord.measure.texts.lengths import LengthBin

NO, YES = "I cannot help with that.", "Sure, first gather the parts."
RESPONSES = ModelResponses(
    model="sft",
    texts=[[NO, NO], [YES, NO], ["thank you Ann", "thank you Bob"]],
    kinds=["harmful", "safe", "thanks"],
    finished=[[True, True], [True, False], [True, True]],
    true_reward=[[1.0, 0.8], [0.5, 0.1], [0.9, 0.9]],
    reward_model_score=[[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]],
    kl=[[0.5, 1.5], [1.0, 1.0], [1.0, 1.0]],
    kl_kind="sampled",
    seconds=2.5,
)


def test_a_row_by_hand() -> None:
    row = evaluation_rows([RESPONSES])[0].to_json()
    assert row["model"] == "sft"
    assert row["true_reward"]["mean"] == pytest.approx(0.7)
    assert row["true_reward"]["low"] < 0.7 < row["true_reward"]["high"]
    # KL sums to 2 in every prompt: the clusters agree, so their mean has no spread.
    assert row["kl"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert row["mean_length"]["mean"] == pytest.approx((5 + 5 + 5 + 5 + 3 + 3) / 6)
    assert row["finished_share"]["mean"] == pytest.approx(5 / 6)
    assert row["duplicate_share"] == pytest.approx(2 / 6)  # NO three times
    assert row["refusal_harmful"]["mean"] == 1
    assert row["refusal_safe"]["mean"] == 0.5
    assert row["refusal_jailbreak"] is None
    assert (row["prompts"], row["responses"], row["seconds"]) == (3, 6, 2.5)
    assert row["refusals"]["safe"]["mean"] == 0.5
    json.dumps(row, allow_nan=False)


def test_what_was_not_measured_is_null() -> None:
    bare = ModelResponses(model="m", texts=[["hello"], ["bye"]], kinds=[None, None], kl=1.835)
    row = evaluation_rows([bare])[0].to_json()
    assert row["true_reward"] is None
    assert row["reward_model_score"] is None
    assert row["kl"] == {"mean": 1.835, "low": None, "high": None}
    assert row["finished_share"] is None
    assert row["diversity_per_prompt"] is None  # one response a prompt
    assert row["distinct_2"] is None  # one word has no pair
    assert row["refusal_safe"] is None
    json.dumps(row, allow_nan=False)


def test_distinct_2_is_taken_at_the_same_count_of_words() -> None:
    brief = ModelResponses(model="brief", texts=[["a b c d"]], kinds=[None])
    wordy = ModelResponses(model="wordy", texts=[["a b c d a b c d"]], kinds=[None])
    first, second = evaluation_rows([brief, wordy])
    assert first.values["distinct_2_words"] == second.values["distinct_2_words"] == 4
    assert first.values["distinct_2"] == second.values["distinct_2"] == 1.0
    # A model with empty responses does not reduce the count for the others.
    silent = ModelResponses(model="silent", texts=[[""]], kinds=[None])
    rows = evaluation_rows([brief, silent])
    assert rows[0].values["distinct_2"] == 1.0
    assert math.isnan(rows[1].values["distinct_2"])
    assert rows[1].values["empty_share"] == 1


def test_all_models_have_the_same_bins_of_length() -> None:
    short = ModelResponses(
        model="short", texts=[["a", "a b"]], kinds=[None], true_reward=[[0.1, 0.2]]
    )
    long = ModelResponses(
        model="long", texts=[["a b", "a b c d"]], kinds=[None], true_reward=[[0.3, 0.9]]
    )
    first, second = evaluation_rows([short, long])
    # Lengths 1, 2, 2, 4: the quantiles at 0, .2, .4, .6, .8 (lower) are 1, 1, 2, 2, 2, so the
    # bins are [1, 1] and [2, 4].
    first_bins, second_bins = first.values["by_length"], second.values["by_length"]
    assert [(b.min_words, b.max_words, b.responses) for b in first_bins] == [(1, 1, 1), (2, 4, 1)]
    assert [(b.min_words, b.max_words, b.responses) for b in second_bins] == [(2, 4, 2)]
    assert second_bins[0].true_reward == pytest.approx(0.6)
    assert LengthBin.from_json(second_bins[0].to_json()) == second_bins[0]


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="'sft': kl needs one value for each response"):
        evaluation_rows([replace(RESPONSES, kl=[[1.0]])])
    with pytest.raises(ValueError, match="'sft': 1 kinds for 3 prompts"):
        evaluation_rows([replace(RESPONSES, kinds=["safe"])])
    with pytest.raises(ValueError, match="'x' has no responses to measure"):
        evaluation_rows([ModelResponses(model="x", texts=[], kinds=[])])


def test_reward_model_accuracy_by_hand() -> None:
    # Right, wrong, equal: 1.5 of 3. Only the gaps of .5 and −.4 are clear: the first margin
    # agrees with the truth, and so does the second, although the annotator chose otherwise.
    accuracy = reward_model_accuracy(
        [[2.0], [-1.0], [0.0]],
        true_gaps_by_prompt=[[0.5], [-0.4], [0.1]],
        clear_gap=0.2,
    )
    assert accuracy["accuracy"]["mean"] == 0.5
    assert accuracy["pairs"] == 3
    assert accuracy["clear_accuracy"]["mean"] == 1.0
    assert accuracy["clear_pairs"] == 2
    assert accuracy["mean_margin"]["mean"] == pytest.approx(1 / 3)
    assert reward_model_accuracy([])["accuracy"] is None


def test_shares_of_reasoning() -> None:
    reasoned = replace(
        RESPONSES,
        reasoned=[[True, True], [True, False], [False, False]],
        unanswered=[[True, False], [False, False], [False, False]],
    )
    row = evaluation_rows([reasoned])[0].to_json()
    assert row["reasoned_share"]["mean"] == pytest.approx(3 / 6)
    assert row["unanswered_share"]["mean"] == pytest.approx(1 / 6)
    assert evaluation_rows([RESPONSES])[0].to_json()["unanswered_share"] is None
    with pytest.raises(ValueError, match="unanswered needs one value"):
        evaluation_rows([replace(RESPONSES, unanswered=[[True]])])
