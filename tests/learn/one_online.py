"""A few iterations of online methods on unequal prompts: what was sampled, measured and learned.

Started with a launcher, in several processes: `one_online EPISODES FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from accord.errors import NotFiniteError
from accord.learn.loop.checkpoints import state_tensors
from accord.learn.loop.processes import barrier, processes
from accord.learn.loop.schedule import RowOrder
from accord.learn.online.evaluate import evaluate_policy
from accord.learn.online.loop import run_iterations
from accord.learn.online.roles import Roles
from accord.learn.online.saved_episodes import FOLDER
from accord.learn.online.step import PtxRows
from accord.lm.packing import PromptGroup
from tests.learn.test_dynamic_sampling import Watched
from tests.learn.test_online_loop import Breaking
from tests.learn.toy_episodes import PROMPTS, RECORDS, roles_of, settings_of, state_of

DEMONSTRATIONS = [
    PromptGroup((4, 5), ((6, 7, 8),)),
    PromptGroup((9,), ((10, 11),)),
    PromptGroup((3, 4, 5, 6), ((7,),)),
]
PRETRAINING = PtxRows(DEMONSTRATIONS, RowOrder(3, 0))


@dataclass(frozen=True)
class Case:
    """A method, its settings, which calls of the reward break in the last process, whether the
    policy is its own reference, whether it samples as a server does: for the main process; and the
    prompts whose responses all score the same."""

    method: str
    settings: dict[str, Any]
    breaks: tuple[int, ...] = ()
    own_reference: bool = False
    server: bool = False
    equal_prompts: str = ""
    more: dict[str, Any] = field(default_factory=dict)


STEPS = {"num_ppo_epochs": 2, "num_mini_batches": 2}
CASES = {
    "ppo": Case("ppo", {**STEPS, "adaptive_kl_target": 0.5, "adaptive_kl_horizon": 100}),
    "ppo, passes": Case(
        "ppo",
        {
            **STEPS,
            "gradient_accumulation_steps": 2,
            "max_tokens_per_forward": 20,
            "entropy_coef": 0.01,
            "ptx_dataset": "toy",
            "ptx_coef": 1.0,
            "ptx_batch_size": 3,
        },
        more={"pretraining": PRETRAINING},
    ),
    "ppo, warm-up": Case("ppo", {"num_ppo_epochs": 1, "beta": 0.0, "critic_warmup_steps": 1}),
    "grpo": Case("grpo", {}),
    "grpo, few prompts": Case("grpo", {"num_generations": 8, "loss_type": "sequence"}),
    "rloo": Case("rloo", {"num_iterations": 2, "missing_eos_penalty": 0.5}),
    "rloo, server": Case("rloo", {}, server=True),
    "gspo": Case("gspo", {"num_iterations": 2, "cliprange": 0.1, "cliprange_high": 0.1}),
    "reinforce_plus_plus": Case("reinforce_plus_plus", {"num_mini_batches": 2}),
    "grpo, dynamic sampling": Case(
        "grpo", {"dynamic_sampling_max_rounds": 2, "num_iterations": 2}, equal_prompts="0"
    ),
    "cispo, dynamic sampling, server": Case(
        "cispo", {"dynamic_sampling_max_rounds": 1}, server=True, equal_prompts="01"
    ),
    "a broken reward": Case("ppo", STEPS, breaks=(1,)),
    "always broken": Case("ppo", STEPS, breaks=(0, 1, 2)),
    "limit": Case(
        "ppo",
        {
            "learning_rate": 0.03,
            "max_kl": 0.5,
            "max_kl_action": "rollback",
            "rollback_copy": "disk",
        },
        own_reference=True,
    ),
}
ITERATIONS = 3


def run(case: Case, episodes: int, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Each iteration's metrics and texts, the error that ended it, numbers on held-out prompts;
    and the last weights and moments."""
    team = processes()
    settings = settings_of(case.method, **case.settings, per_device_train_batch_size=episodes)
    roles = roles_of(case.method)
    if case.own_reference:
        roles = replace(roles, reference=roles_of(case.method).policy)
    if team.rank == team.world_size - 1 and case.breaks:
        roles = replace(roles, reward=Breaking(*case.breaks))
    if case.equal_prompts:
        roles = replace(roles, reward=Watched(case.equal_prompts).reward)
    if case.server:
        roles = replace(roles, server=True, sync_weights=_only_main)
        roles = replace(roles, sampler=roles.sampler if team.is_main else _no_prompts)
    state = state_of(roles, settings)
    steps = run_iterations(
        case.method,
        state,
        roles,
        PROMPTS,
        RECORDS,
        settings,
        iterations=ITERATIONS,
        folder=folder,
        **case.more,
    )
    rows, error = [], None
    try:
        for step in steps:
            rows.append(step.metrics)
    except NotFiniteError as raised:
        error = str(raised).partition(":")[0]
    texts = [
        json.loads((place / "about.json").read_text())["texts"]
        for place in sorted((folder / FOLDER).iterdir())
    ]
    unseen = {} if case.breaks else _unseen(roles, settings)
    return {"rows": rows, "texts": texts, "error": error, **unseen}, state_tensors(state)


def _only_main() -> None:
    assert processes().is_main


def _no_prompts(prompts: Sequence[Any], *args: Any, **more: Any) -> list[Any]:
    assert not prompts
    return []


def _unseen(roles: Roles, settings: Any) -> dict[str, Any]:
    """Held-out prompts that can't be dealt out evenly, and fewer than there are processes."""
    return {
        f"{count} unseen": evaluate_policy(roles, PROMPTS[:count], RECORDS[:count], settings, 0.1)
        for count in (3, 1)
    }


if __name__ == "__main__":
    assert processes().world_size > 1, "the launcher's variables were not read"
    for name, one in CASES.items():
        place = Path(sys.argv[2], name)
        told, tensors = run(one, int(sys.argv[1]), place)
        (place / f"told-{processes().rank}.json").write_text(json.dumps(told))
        save_file(tensors, place / f"state-{processes().rank}.safetensors")
    barrier()
