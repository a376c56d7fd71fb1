"""The online methods: what each steps towards, and where its KL penalty is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accord.learn.online.episodes import Episodes
from accord.learn.online.group_methods import grpo_targets, rloo_targets
from accord.learn.online.metrics import Targets
from accord.learn.online.ppo import ppo_targets


@dataclass(frozen=True, slots=True)
class OnlineMethod:
    """`targets(episodes, settings, beta)` gives advantages. `kl_in_loss`: the KL penalty is a term
    of the loss; else it is in the reward. `groups`: TRL's names for groups are logged too."""

    targets: Callable[[Episodes, Any, float], Targets]
    kl_in_loss: bool = False
    groups: bool = False


ONLINE: dict[str, OnlineMethod] = {
    "ppo": OnlineMethod(ppo_targets),
    "grpo": OnlineMethod(grpo_targets, kl_in_loss=True, groups=True),
    "rloo": OnlineMethod(rloo_targets, groups=True),
}
