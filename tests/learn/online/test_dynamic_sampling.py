"""Dynamic sampling: which prompts replace which, what is logged, and what a resumed run does."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.compare.rewards.reward import RewardScores
from accord.learn.loop.checkpoints import load_checkpoint, save_checkpoint
from accord.learn.online import loop
from accord.learn.online.dynamic_sampling import replace_equal_groups, split_prompts
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import Rollouts, ScoredRollouts
from accord.lm.packing import PromptGroup
from tests.learn.toys.metrics import without_seconds
from tests.learn.toys.rewards import EqualReward
from tests.learn.toys.roles import (
    PROMPT_ORDER,
    PROMPTS,
    are_equal,
    copy_weights,
    iterate,
    make_roles,
    make_state,
)
from tests.learn.toys.settings import online_settings

# The order of 3 prompts under seed 0; an iteration has two of them, with 4 responses each.
ORDER = [1, 2, 0, 0, 1, 2, 1, 2, 0, 0, 1, 2, 1, 0, 2]


def test_the_order_of_the_prompts_is_the_one_that_these_tests_expect() -> None:
    assert PROMPT_ORDER.rows.slice(0, 15) == ORDER


class RecordingRoles:
    """Roles with a reward that is equal for some prompts; the sampler records the random streams
    of each call, and the number of all tokens."""

    def __init__(self, *equal_prompts: str) -> None:
        self.plain = make_roles("grpo")
        self.roles = replace(self.plain, reward=EqualReward(*equal_prompts), sampler=self.sample)
        self.streams: list[list[int]] = []
        self.num_tokens = 0

    def sample(self, prompts: Sequence[Any], *args: Any, **options: Any) -> Any:
        self.streams.append(list(options["streams"]))
        responses = self.plain.sampler(prompts, *args, **options)
        for prompt, samples in zip(prompts, responses, strict=True):
            self.num_tokens += len(prompt) + sum(len(s.tokens) for s in samples)
        return responses


def dynamic_settings(output_dir: Path | str, max_rounds: int, **overrides: Any) -> Any:
    return online_settings(
        "grpo",
        output_dir=str(output_dir),
        dynamic_sampling_max_rounds=max_rounds,
        missing_eos_penalty=0.0,
        **overrides,
    )


def run(roles: Roles, settings: Any, iterations: int) -> list[dict[str, float]]:
    state = make_state(roles, settings)
    return [result.metrics for result in iterate(state, roles, settings, iterations, "grpo")]


def logged(rows: Sequence[dict[str, float]], name: str) -> list[float]:
    return [row[f"dynamic_sampling/{name}"] for row in rows]


def test_equal_groups_are_replaced_by_the_next_prompts(tmp_path: Path) -> None:
    # Prompt 0 has equal scores. Positions 0, 1 are prompts 1, 2; positions 2, 3 are 0, 0, and are
    # replaced by 4, 5; so the third iteration begins at 6: prompts 1, 2. Then 8, 9 are replaced by
    # 10, 11. At 12, 13 are 1, 0, and the latter is replaced by 14.
    recording = RecordingRoles("0")
    rows = run(recording.roles, dynamic_settings(tmp_path, 2), 5)
    assert recording.streams == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
        [8, 9],
        [10, 11],
        [12, 13],
        [14],
    ]
    assert logged(rows, "replaced_prompts") == [0, 2, 0, 2, 1]
    assert logged(rows, "extra_responses") == [0, 8, 0, 8, 4]
    assert logged(rows, "equal_groups") == [0] * 5
    assert [row["frac_reward_zero_std"] for row in rows] == [0.0] * 5
    # Three prompts are an epoch; what was sampled and not used counts.
    assert [row["epoch"] * 3 for row in rows] == pytest.approx([2, 6, 8, 12, 15])
    assert rows[-1]["num_tokens"] == recording.num_tokens


def test_beyond_the_limit_equal_groups_stay_and_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Prompts 0 and 1 have equal scores. First 1, 2: for 1 come 0, 0, 1, and that is the limit.
    # Then, from position 5, 2, 1, and 2 for the latter. From 8 on 0, 0: 1, 2 come for them, then
    # 1 and 0 for the former.
    recording = RecordingRoles("0", "1")
    with caplog.at_level(logging.WARNING, logger="accord"):
        rows = run(recording.roles, dynamic_settings(tmp_path, 3), 3)
    assert recording.streams == [
        [0, 1],
        [2],
        [3],
        [4],
        [5, 6],
        [7],
        [8, 9],
        [10, 11],
        [12],
        [13],
    ]
    assert logged(rows, "replaced_prompts") == [3, 1, 4]
    assert logged(rows, "extra_responses") == [12, 4, 16]
    assert logged(rows, "equal_groups") == [1, 0, 1]
    assert [row["frac_reward_zero_std"] for row in rows] == [0.5, 0.0, 0.5]
    assert [row["epoch"] * 3 for row in rows] == pytest.approx([5, 8, 14])
    assert rows[-1]["num_tokens"] == recording.num_tokens
    assert caplog.text.count("after dynamic_sampling_max_rounds=3") == 1


def test_where_no_scores_are_equal_only_its_metrics_are_added(tmp_path: Path) -> None:
    dynamic, plain = RecordingRoles(), RecordingRoles()
    rows = run(dynamic.roles, dynamic_settings(tmp_path, 3), 3)
    plain_rows = run(plain.roles, dynamic_settings(tmp_path, 0), 3)
    assert dynamic.streams == plain.streams == [[0, 1], [2, 3], [4, 5]]
    for row, plain_row in zip(rows, plain_rows, strict=True):
        added = {name for name in row if name.startswith("dynamic_sampling/")}
        assert row.keys() - plain_row.keys() == added
        common = {name: value for name, value in row.items() if name not in added}
        assert without_seconds(common) == without_seconds(plain_row)
    assert are_equal(copy_weights(dynamic.plain.policy), copy_weights(plain.plain.policy))


def test_a_resumed_run_replaces_the_same_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checkpoint is of the third iteration; the fourth has saved its episodes, of which two
    # prompts were replaced, and is killed in its steps. Only the fifth and sixth are sampled again.
    def killed(*args: Any) -> Any:
        raise KeyboardInterrupt

    settings = dynamic_settings(tmp_path, 2, num_iterations=2)
    straight = RecordingRoles("0")
    expected = run(straight.roles, settings, 6)
    stopped = RecordingRoles("0")
    state = make_state(stopped.roles, settings)
    steps = iterate(state, stopped.roles, settings, 6, "grpo", folder=tmp_path)
    for _ in range(3):
        next(steps)
    save_checkpoint(tmp_path, state, settings.model_dump(mode="json"), keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimise", killed)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    assert stopped.streams[-1] == [10, 11]
    resumed = RecordingRoles("0")
    state = make_state(resumed.roles, settings)
    assert load_checkpoint(tmp_path, state, settings, resume=True)
    assert state.progress.replaced_prompts == 2
    steps = iterate(state, resumed.roles, settings, 6, "grpo", folder=tmp_path)
    rows = [result.metrics for result in steps]
    assert resumed.streams == straight.streams[6:]
    assert resumed.streams[0] == [12, 13]
    assert [without_seconds(row) for row in rows] == [without_seconds(row) for row in expected[3:]]
    assert are_equal(copy_weights(resumed.plain.policy), copy_weights(straight.plain.policy))


def scored_rollouts(*scores: float, finished: Sequence[bool]) -> ScoredRollouts:
    """Two prompts at positions 4 and 5, each with two responses: of 1, 2, 3 and 1 tokens."""
    groups = (PromptGroup((5,), ((6,), (7, 2))), PromptGroup((8, 9), ((3, 4, 2), (1,))))
    rollouts = Rollouts(
        groups,
        ("a", "b", "c", "d"),
        tuple(finished),
        (-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7),
        exact=False,
    )
    by_source = {"rule": [score / 2 for score in scores]}
    return ScoredRollouts((4, 5), rollouts, RewardScores(list(scores), by_source))


def test_scores_are_compared_after_penalties() -> None:
    # Equal scores, but one of the responses has no end: 1 and 0. Then both have none.
    settings = online_settings("grpo", dynamic_sampling_max_rounds=1, num_generations=2)
    recording = RecordingRoles()
    different = scored_rollouts(1.0, 1.0, 2.0, 3.0, finished=[True, False, True, True])
    result = replace_equal_groups(different, recording.roles, PROMPT_ORDER, settings)
    assert replace(result, metrics={}) == replace(different, scores=result.scores)
    assert result.scores.total == different.scores.total
    assert result.scores.by_source == different.scores.by_source
    assert not recording.streams
    equal = scored_rollouts(1.0, 1.0, 2.0, 3.0, finished=[False, False, True, True])
    result = replace_equal_groups(equal, recording.roles, PROMPT_ORDER, settings)
    assert recording.streams == [[6]]
    assert result.positions == (6, 5)
    assert result.discarded_tokens == 4
    assert result.rollouts.groups[0].prompt == PROMPTS[ORDER[6]]
    assert result.rollouts.groups[1] == equal.rollouts.groups[1]
    assert result.rollouts.logps[-4:] == (-0.4, -0.5, -0.6, -0.7)


def test_a_prompt_without_two_scores_is_replaced() -> None:
    # NaN: no reward applies to the response, so that no response has an advantage.
    settings = online_settings("grpo", dynamic_sampling_max_rounds=1, num_generations=2)
    broken = scored_rollouts(math.nan, 1.0, 2.0, 3.0, finished=[True] * 4)
    recording = RecordingRoles()
    result = replace_equal_groups(broken, recording.roles, PROMPT_ORDER, settings)
    assert result.metrics["dynamic_sampling/replaced_prompts"] == 1.0
    assert result.positions == (6, 5)


def test_rollouts_are_split_by_prompt() -> None:
    scored = scored_rollouts(1.0, 2.0, 3.0, 4.0, finished=[True, False, True, True])
    first, second = split_prompts(scored)
    assert (first.positions, second.positions) == ((4,), (5,))
    assert first.rollouts.logps == (-0.1, -0.2, -0.3)
    assert second.rollouts.logps == (-0.4, -0.5, -0.6, -0.7)
    assert first.rollouts.finished == (True, False)
    assert second.rollouts.texts == ("c", "d")
    assert second.scores == RewardScores([3.0, 4.0], {"rule": [1.5, 2.0]})
    assert not first.rollouts.exact
