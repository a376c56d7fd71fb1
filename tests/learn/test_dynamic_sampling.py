"""Dynamic sampling: which prompts are replaced by which, what is logged, what a kill changes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.compare.rewards.reward import RewardScores
from accord.learn.loop.checkpoints import load_checkpoint, save_checkpoint
from accord.learn.loop.schedule import RowOrder
from accord.learn.online import loop
from accord.learn.online.dynamic_sampling import replace_equal_groups, split_prompts
from accord.learn.online.loop import run_iterations
from accord.learn.online.roles import Roles
from accord.learn.online.sampling import PromptOrder, Rollouts, ScoredRollouts
from accord.lm.packing import PromptGroup
from tests.learn.toy_episodes import (
    PROMPTS,
    RECORDS,
    digits,
    roles_of,
    settings_of,
    state_of,
    weights,
)

# The order of 3 prompts under seed 0; an iteration has two of them, with 4 responses each.
ORDER = [1, 2, 0, 0, 1, 2, 1, 2, 0, 0, 1, 2, 1, 0, 2]


def test_the_order_is_the_one_that_these_tests_count_on() -> None:
    assert RowOrder(3, 0).slice(0, 15) == ORDER


@dataclass
class Watched:
    """Roles whose reward scores all responses to some prompts the same, and whose sampler notes
    the random streams that it was asked for and how many tokens there were."""

    equal_prompts: str
    roles: Roles = field(default_factory=lambda: roles_of("grpo"))
    streams: list[list[int]] = field(default_factory=list)
    tokens: int = 0

    def watched(self) -> Roles:
        return replace(self.roles, reward=self.reward, sampler=self.sample)

    def reward(
        self, prompts: Sequence[Any], texts: Sequence[str], finished: Any = None
    ) -> list[float]:
        scores = digits(prompts, texts, finished)
        return [
            1.0 if prompt in self.equal_prompts else score
            for prompt, score in zip(prompts, scores, strict=True)
        ]

    def sample(self, prompts: Sequence[Any], *args: Any, **more: Any) -> Any:
        self.streams.append(list(more["streams"]))
        responses = self.roles.sampler(prompts, *args, **more)
        for prompt, samples in zip(prompts, responses, strict=True):
            self.tokens += len(prompt) + sum(len(s.tokens) for s in samples)
        return responses


def dynamic(output_dir: Path, rounds: int, **more: Any) -> Any:
    return settings_of(
        "grpo",
        output_dir=str(output_dir),
        dynamic_sampling_max_rounds=rounds,
        missing_eos_penalty=0.0,
        **more,
    )


def iterate(watched: Watched, settings: Any, iterations: int, **more: Any) -> list[dict[str, Any]]:
    roles = watched.watched()
    steps = run_iterations(
        "grpo",
        state_of(roles, settings),
        roles,
        PROMPTS,
        RECORDS,
        settings,
        iterations=iterations,
        **more,
    )
    return [step.metrics for step in steps]


def logged(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[f"dynamic_sampling/{name}"] for row in rows]


def test_equal_groups_are_replaced_by_the_next_prompts(tmp_path: Path) -> None:
    # Prompt 0 has equal scores. Positions 0, 1 hold prompts 1, 2; positions 2, 3 hold 0, 0, and are
    # replaced by 4, 5; so the third iteration begins at 6: prompts 1, 2. Then 8, 9 are replaced by
    # 10, 11. At 12, 13 stand 1, 0, and the latter is replaced by 14.
    watched = Watched("0")
    rows = iterate(watched, dynamic(tmp_path, 2), 5)
    asked = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14]]
    assert watched.streams == asked
    assert logged(rows, "replaced_prompts") == [0, 2, 0, 2, 1]
    assert logged(rows, "extra_responses") == [0, 8, 0, 8, 4]
    assert logged(rows, "equal_groups") == [0] * 5
    assert [row["frac_reward_zero_std"] for row in rows] == [0.0] * 5
    # Three prompts are an epoch; what was sampled and not used counts.
    assert [row["epoch"] * 3 for row in rows] == pytest.approx([2, 6, 8, 12, 15])
    assert rows[-1]["num_tokens"] == watched.tokens


def test_past_the_limit_they_stay_and_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Prompts 0 and 1 have equal scores. First 1, 2: in place of 1 come 0, 0, 1, and that is the
    # limit. Then, from position 5, 2, 1, and 2 for the latter. From 8 on 0, 0: 1, 2 come for them,
    # then 1 and 0 for the former.
    watched = Watched("01")
    with caplog.at_level(logging.WARNING, logger="accord"):
        rows = iterate(watched, dynamic(tmp_path, 3), 3)
    asked = [[0, 1], [2], [3], [4], [5, 6], [7], [8, 9], [10, 11], [12], [13]]
    assert watched.streams == asked
    assert logged(rows, "replaced_prompts") == [3, 1, 4]
    assert logged(rows, "extra_responses") == [12, 4, 16]
    assert logged(rows, "equal_groups") == [1, 0, 1]
    assert [row["frac_reward_zero_std"] for row in rows] == [0.5, 0.0, 0.5]
    assert [row["epoch"] * 3 for row in rows] == pytest.approx([5, 8, 14])
    assert rows[-1]["num_tokens"] == watched.tokens
    assert caplog.text.count("after dynamic_sampling_max_rounds=3") == 1


def test_where_no_scores_are_equal_nothing_changes(tmp_path: Path) -> None:
    watched, plain = Watched(""), Watched("")
    rows = iterate(watched, dynamic(tmp_path, 3), 3)
    expected = iterate(plain, dynamic(tmp_path, 0), 3)
    assert watched.streams == plain.streams == [[0, 1], [2, 3], [4, 5]]
    for row, other in zip(rows, expected, strict=True):
        added = {name for name in row if name.startswith("dynamic_sampling/")}
        assert row.keys() - other.keys() == added
        assert all(row[name] == value for name, value in other.items() if name != "seconds")
    same = zip(weights(watched.roles.policy), weights(plain.roles.policy), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_a_killed_run_replaces_the_same_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checkpoint is of the third iteration; the fourth has its episodes, of which two prompts
    # were replaced, and dies in its steps. Only the fifth and sixth are sampled again.
    settings = dynamic(tmp_path, 2, num_iterations=2)
    whole = Watched("0")
    expected = iterate(whole, settings, 6)
    first = Watched("0")
    roles = first.watched()
    state = state_of(roles, settings)
    steps = run_iterations(
        "grpo", state, roles, PROMPTS, RECORDS, settings, iterations=6, folder=tmp_path
    )
    for _ in range(3):
        next(steps)
    save_checkpoint(tmp_path, state, settings.model_dump(mode="json"), keep=1)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "optimise", _dies)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    assert first.streams[-1] == [10, 11]
    second = Watched("0")
    roles = second.watched()
    again = state_of(roles, settings)
    assert load_checkpoint(tmp_path, again, settings, resume=True)
    assert again.progress.replaced_prompts == 2
    steps = run_iterations(
        "grpo", again, roles, PROMPTS, RECORDS, settings, iterations=6, folder=tmp_path
    )
    rows = [step.metrics for step in steps]
    assert second.streams == whole.streams[6:]
    assert second.streams[0] == [12, 13]
    for row, other in zip(rows, expected[3:], strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }
    same = zip(weights(second.roles.policy), weights(whole.roles.policy), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def _dies(*args: Any) -> Any:
    raise KeyboardInterrupt


def scored(*scores: float, finished: Sequence[bool]) -> ScoredRollouts:
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
    order = PromptOrder(PROMPTS, RECORDS, RowOrder(3, 0))
    settings = settings_of("grpo", dynamic_sampling_max_rounds=1, num_generations=2)
    watched = Watched("")
    kept = scored(1.0, 1.0, 2.0, 3.0, finished=[True, False, True, True])
    found = replace_equal_groups(kept, watched.watched(), order, settings)
    assert replace(found, metrics={}) == replace(kept, scores=found.scores)
    assert found.scores.total == kept.scores.total
    assert found.scores.by_source == kept.scores.by_source
    assert not watched.streams
    cut = scored(1.0, 1.0, 2.0, 3.0, finished=[False, False, True, True])
    found = replace_equal_groups(cut, watched.watched(), order, settings)
    assert watched.streams == [[6]]
    assert found.positions == (6, 5)
    assert found.discarded_tokens == 4
    assert found.rollouts.groups[0].prompt == PROMPTS[ORDER[6]]
    assert found.rollouts.groups[1] == cut.rollouts.groups[1]
    assert found.rollouts.logps[-4:] == (-0.4, -0.5, -0.6, -0.7)


def test_scores_that_are_not_finite_are_not_equal() -> None:
    # They are left to the check of the loss, which names the rows.
    order = PromptOrder(PROMPTS, RECORDS, RowOrder(3, 0))
    settings = settings_of("grpo", dynamic_sampling_max_rounds=1, num_generations=2)
    broken = scored(math.nan, math.nan, 2.0, 3.0, finished=[True] * 4)
    watched = Watched("")
    found = replace_equal_groups(broken, watched.watched(), order, settings)
    assert found.metrics["dynamic_sampling/replaced_prompts"] == 0.0
    assert not watched.streams


def test_rollouts_are_split_by_prompt() -> None:
    first, second = split_prompts(scored(1.0, 2.0, 3.0, 4.0, finished=[True, False, True, True]))
    assert (first.positions, second.positions) == ((4,), (5,))
    assert first.rollouts.logps == (-0.1, -0.2, -0.3)
    assert second.rollouts.logps == (-0.4, -0.5, -0.6, -0.7)
    assert first.rollouts.finished == (True, False)
    assert second.rollouts.texts == ("c", "d")
    assert second.scores == RewardScores([3.0, 4.0], {"rule": [1.5, 2.0]})
    assert not first.rollouts.exact
