"""A few iterations of online methods on unequal prompts: what was sampled, measured and learned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from accord.errors import NotFiniteError
from accord.learn.loop.processes import processes
from accord.learn.loop.schedule import RowOrder
from accord.learn.loop.state import state_tensors
from accord.learn.online.evaluate import evaluate_policy
from accord.learn.online.roles import Roles
from accord.learn.online.saved_episodes import FOLDER
from accord.learn.online.step import PtxRows
from accord.lm.packing import PromptGroup
from tests.learn.toys.rewards import EqualReward, InfiniteReward
from tests.learn.toys.roles import PROMPTS, RECORDS, iterate, make_roles, make_state
from tests.learn.toys.settings import online_settings

ITERATIONS = 3
DEMONSTRATIONS = [
    PromptGroup((4, 5), ((6, 7, 8),)),
    PromptGroup((9,), ((10, 11),)),
    PromptGroup((3, 4, 5, 6), ((7,),)),
]


@dataclass(frozen=True)
class Case:
    """A method with its settings, and how its roles differ from the usual.

    `infinite_calls`: the calls of the reward that are infinite in the last process.
    `equal_prompts`: the prompts whose responses all score the same.
    `starts_at_reference`: the reference has the policy's weights.
    `server`: the policy is sampled as from a server, which the main process alone asks.
    """

    method: str
    settings: dict[str, Any]
    infinite_calls: tuple[int, ...] = ()
    equal_prompts: tuple[str, ...] = ()
    starts_at_reference: bool = False
    server: bool = False
    ptx_rows: PtxRows | None = None


FOUR_STEPS = {"num_ppo_epochs": 2, "num_mini_batches": 2}
CASES = {
    "ppo": Case("ppo", {**FOUR_STEPS, "adaptive_kl_target": 0.5, "adaptive_kl_horizon": 100}),
    "ppo, passes": Case(
        "ppo",
        {
            **FOUR_STEPS,
            "gradient_accumulation_steps": 2,
            "max_tokens_per_forward": 20,
            "entropy_coef": 0.01,
            "ptx_dataset": "toy",
            "ptx_coef": 1.0,
            "ptx_batch_size": 3,
        },
        ptx_rows=PtxRows(DEMONSTRATIONS, RowOrder(3, 0)),
    ),
    "ppo, warm-up": Case("ppo", {"num_ppo_epochs": 1, "beta": 0.0, "critic_warmup_steps": 1}),
    "grpo": Case("grpo", {}),
    "grpo, few prompts": Case("grpo", {"num_generations": 8, "loss_type": "sequence"}),
    "rloo": Case("rloo", {"num_iterations": 2, "missing_eos_penalty": 0.5}),
    "rloo, server": Case("rloo", {}, server=True),
    "gspo": Case("gspo", {"num_iterations": 2, "cliprange": 0.1, "cliprange_high": 0.1}),
    "reinforce_plus_plus": Case("reinforce_plus_plus", {"num_mini_batches": 2}),
    "grpo, dynamic sampling": Case(
        "grpo", {"dynamic_sampling_max_rounds": 2, "num_iterations": 2}, equal_prompts=("0",)
    ),
    "cispo, dynamic sampling, server": Case(
        "cispo", {"dynamic_sampling_max_rounds": 1}, equal_prompts=("0", "1"), server=True
    ),
    "a broken reward": Case("ppo", FOUR_STEPS, infinite_calls=(1,)),
    "always broken": Case("ppo", FOUR_STEPS, infinite_calls=(0, 1, 2)),
    "limit": Case(
        "ppo",
        {
            "learning_rate": 0.03,
            "max_kl": 0.5,
            "max_kl_action": "rollback",
            "rollback_copy": "disk",
        },
        starts_at_reference=True,
    ),
}


def run_case(
    case: Case, episodes: int, folder: Path
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Each iteration's metrics and texts, the error that ended it, metrics of held-out prompts;
    and the last weights and moments."""
    settings = online_settings(case.method, **case.settings, per_device_train_batch_size=episodes)
    roles = make_case_roles(case)
    state = make_state(roles, settings)
    rows, error = [], None
    try:
        for result in iterate(
            state,
            roles,
            settings,
            ITERATIONS,
            case.method,
            folder=folder,
            ptx_rows=case.ptx_rows,
        ):
            rows.append(result.metrics)
    except NotFiniteError as raised:
        error = str(raised).partition(":")[0]
    texts = [
        json.loads((saved / "about.json").read_text())["texts"]
        for saved in sorted((folder / FOLDER).iterdir())
    ]
    held_out = {} if case.infinite_calls else evaluate_few_prompts(roles, settings)
    return {"rows": rows, "texts": texts, "error": error, **held_out}, state_tensors(state)


def make_case_roles(case: Case) -> Roles:
    procs, roles = processes(), make_roles(case.method)
    if case.starts_at_reference:
        roles = replace(roles, reference=make_roles(case.method).policy)
    if case.infinite_calls and procs.rank == procs.world_size - 1:
        roles = replace(roles, reward=InfiniteReward(*case.infinite_calls))
    if case.equal_prompts:
        roles = replace(roles, reward=EqualReward(*case.equal_prompts))
    if case.server:
        roles = replace(roles, server=True, sync_weights=assert_main_process)
        if not procs.is_main:
            roles = replace(roles, sampler=assert_no_prompts)
    return roles


def assert_main_process() -> None:
    assert processes().is_main


def assert_no_prompts(prompts: Sequence[Any], *args: Any, **options: Any) -> list[Any]:
    assert not prompts
    return []


def evaluate_few_prompts(roles: Roles, settings: Any) -> dict[str, Any]:
    """Held-out prompts that can't be split evenly, and fewer than there are processes."""
    return {
        f"{count} held out": evaluate_policy(roles, PROMPTS[:count], RECORDS[:count], settings, 0.1)
        for count in (3, 1)
    }


def save_cases(episodes: int, folder: Path) -> None:
    """Run all cases in this process, one of several, and write what it has to folders by case."""
    for name, case in CASES.items():
        results, tensors = run_case(case, episodes, folder / name)
        (folder / name / f"results-{processes().rank}.json").write_text(json.dumps(results))
        save_file(tensors, folder / name / f"state-{processes().rank}.safetensors")
