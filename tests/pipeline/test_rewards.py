"""PPO with several sources of reward: its metrics, and what makes it run again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from accord.pipeline import run_stage
from accord.pipeline.identity import stage_identity
from accord.runs import read_metrics
from accord.settings.recipe import StagePlan, single_stage

CONFIG = """\
dataset: {world}/train_prompts.jsonl
model: {world}/model
output_dir: {here}/ppo
max_steps: 2
per_device_train_batch_size: 4
num_ppo_epochs: 1
max_new_tokens: 8
reward_clip: null
missing_eos_penalty: 0.0
eval_dataset: {world}/test_prompts.jsonl
device: cpu
rewards:
  - {{kind: length, at_most: 0, penalty: 0.5}}
  - {{kind: world, name: flawed, weight: 2.0, flaws: {{length: 1.0}}}}
  - {{kind: world, weight: 0.0}}
  - {{kind: python, function: "{here}/mine.py:shout"}}
"""
MINE = "def shout(prompts, responses):\n    return [len(r) for r in responses]\n"


@pytest.fixture
def plan(tiny_world: Path, tmp_path: Path) -> StagePlan:
    (tmp_path / "mine.py").write_text(MINE)
    config = tmp_path / "ppo.yaml"
    config.write_text(CONFIG.format(world=tiny_world, here=tmp_path))
    return single_stage("train", "ppo", config=config)


def test_each_source_is_logged_by_its_name(plan: StagePlan, tmp_path: Path) -> None:
    run_stage(plan)
    rows = read_metrics(tmp_path / "ppo" / "metrics.jsonl")
    assert len(rows) == 2
    for prefix, row in (("", rows[0]), ("", rows[1]), ("eval/", rows[1])):
        means = {
            n: row[f"{prefix}rewards/{n}/mean"] for n in ("length", "flawed", "world", "shout")
        }
        # −½ a word, and with the flaw 1/10 a word above the truth.
        assert means["flawed"] == pytest.approx(means["world"] - means["length"] / 5)
        total = means["length"] + 2 * means["flawed"] + means["shout"]
        assert row[f"{prefix}objective/scores"] == pytest.approx(total, rel=1e-5)
        assert math.isfinite(row[f"{prefix}rewards/shout/std"])
    assert (tmp_path / "ppo" / "model" / "config.json").is_file()


def test_a_changed_function_is_a_changed_input(plan: StagePlan, tmp_path: Path) -> None:
    before = stage_identity(plan)
    assert str(tmp_path / "mine.py") in before["inputs"]
    assert stage_identity(plan)["digest"] == before["digest"]
    (tmp_path / "mine.py").write_text(MINE + "\n# another\n")
    assert stage_identity(plan)["digest"] != before["digest"]
    assert json.dumps(before)
