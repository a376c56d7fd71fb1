"""Responses that no reward applies to: no advantage, and in no mean. As in TRL 1.16."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from accord.errors import RewardError
from accord.objectives.advantages import group_advantages, has_equal_scores, leave_one_out
from accord.pipeline import run_stage
from accord.runs import read_metrics
from accord.settings.recipe import single_stage
from tests.lm.toys import save_toy

NAN = math.nan


def trl_advantages(scores: torch.Tensor, *, scale: bool) -> torch.Tensor:
    """GRPO's advantages as TRL 1.16 computes them from rewards with NaN: `nanmean`, a deviation of
    the sample that is NaN for one value, and NaN advantages set to 0."""
    mean = torch.nanmean(scores, 1, keepdim=True)
    count = (~scores.isnan()).sum(1, keepdim=True)
    variance = torch.nanmean((scores - mean) ** 2, 1, keepdim=True) * (count / (count - 1))
    variance = torch.where(count > 1, variance, torch.nan)
    advantages = scores - mean
    if scale:
        advantages = advantages / (variance.sqrt() + 1e-4)
    return advantages.nan_to_num(nan=0.0)


@pytest.mark.parametrize("scale", [True, False])
def test_group_advantages_are_trls(scale: bool) -> None:
    scores = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    scores[torch.rand(64, 6, generator=torch.Generator().manual_seed(1)) < 0.5] = NAN
    scores[0], scores[1, 1:] = NAN, NAN
    assert scores.isnan().any()
    ours = group_advantages(scores, scale=scale)
    torch.testing.assert_close(ours, trl_advantages(scores, scale=scale), atol=1e-6, rtol=1e-5)
    assert (ours[scores.isnan()] == 0).all()


def test_values_by_hand() -> None:
    scores = torch.tensor([[1.0, NAN, 3.0], [NAN, NAN, 5.0], [NAN] * 3, [2.0, 2.0, NAN]])
    # Of 1 and 3 the mean is 2 and the sample's deviation √2.
    one = 1 / (math.sqrt(2) + 1e-4)
    expected = torch.tensor([[-one, 0.0, one], [0.0] * 3, [0.0] * 3, [0.0] * 3])
    torch.testing.assert_close(group_advantages(scores, scale=True), expected)
    # 1 against the other's 3, and 3 against 1.
    left_out = torch.tensor([[-2.0, 0.0, 2.0], [0.0] * 3, [0.0] * 3, [0.0] * 3])
    torch.testing.assert_close(leave_one_out(scores), left_out)
    assert has_equal_scores(scores).tolist() == [False, True, True, True]


REWARDS = """
def math_only(completions, kind, **kwargs):
    return [float(len(c)) if k == "math" else None for c, k in zip(completions, kind)]

def never(completions):
    return [None] * len(completions)

def slip(completions, knid):
    return [0.0] * len(completions)

async def waits(completions):
    return [1.0] * len(completions)
"""


def train(method: str, folder: Path, *functions: str, **more: object) -> list[dict[str, float]]:
    (folder / "mine.py").write_text(REWARDS)
    rows = ['{"prompt": "cat", "kind": "math"}', '{"prompt": "dog", "kind": "chat"}']
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    sources = ", ".join(f"{{kind: python, function: '{folder}/mine.py:{f}'}}" for f in functions)
    values = {
        "model": save_toy(folder / "toy"),
        "dataset": folder / "prompts.jsonl",
        "output_dir": folder / "out",
        "rewards": f"[{sources}]",
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "max_new_tokens": 4,
        "max_length": 32,
        "device": "cpu",
        **more,
    }
    run_stage(single_stage("train", method, overrides=[f"{k}={v}" for k, v in values.items()]))
    return [dict(row) for row in read_metrics(folder / "out/metrics.jsonl")]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("grpo", {"num_generations": 2}),
        ("rloo", {"num_generations": 2}),
        ("ppo", {"whiten_rewards": "true"}),
        ("reinforce_plus_plus", {}),
    ],
)
def test_a_reward_that_applies_to_some_prompts(
    tmp_path: Path, method: str, more: dict[str, object]
) -> None:
    rows = train(method, tmp_path, "math_only", **more)
    for row in rows:
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
        assert row["skipped"] == 0
    assert any("rewards/math_only/mean" in row for row in rows)


def test_a_reward_that_never_applies_teaches_nothing(tmp_path: Path) -> None:
    for method in ("grpo", "ppo"):
        (tmp_path / method).mkdir()
        more = {"num_generations": 2, "beta": 0} if method == "grpo" else {}
        for row in train(method, tmp_path / method, "never", **more):
            assert "objective/scores" not in row
            assert "rewards/never/mean" not in row
            assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))


def test_what_applies_is_added_to_what_does_not(tmp_path: Path) -> None:
    for row in train("grpo", tmp_path, "never", "waits", num_generations=2):
        assert row["rewards/waits/mean"] == row["objective/scores"] == 1.0


def test_a_slip_in_a_parameter_ends_the_run_before_it_samples(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"`knid`.*mean `kind`\? The rows' other columns: kind"):
        train("grpo", tmp_path, "slip", num_generations=2)
    assert not (tmp_path / "out/metrics.jsonl").exists()


def test_held_out_prompts_without_the_column_end_the_run_too(tmp_path: Path) -> None:
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "cat"}')
    more = {"num_generations": 2, "eval_dataset": tmp_path / "held_out.jsonl"}
    with pytest.raises(RewardError, match=r"`kind`, and no row .* other columns: none"):
        train("grpo", tmp_path, "math_only", **more)
    assert not (tmp_path / "out/metrics.jsonl").exists()
