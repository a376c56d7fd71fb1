"""Two prompts with responses, and rewards built from tables of settings."""

from __future__ import annotations

from typing import Any

from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import CombinedReward
from accord.records import Message, Prompt
from accord.settings.ppo import PpoSettings
from accord.settings.reading.load import build
from accord.settings.rewards import RewardSource

PROMPTS: list[Prompt] = ["one", (Message("user", "two"),)]
TEXTS = ["a b c d", "yes"]


def build_sources(*tables: dict[str, Any]) -> list[RewardSource]:
    settings = {"model": "m", "dataset": "d", "output_dir": "o", "rewards": list(tables)}
    return build(PpoSettings, settings, where="train ppo").sources


def reward_from(*tables: dict[str, Any], **more: Any) -> CombinedReward:
    return build_reward(build_sources(*tables), **more)
