"""The stage of an online method: load the roles, run the loop, write the policy."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from accord.compare.dataset import load_records
from accord.compare.rewards.reward import Reward, World, check_reward_rows, write_usage
from accord.errors import StorageError
from accord.learn.loop.card import model_card
from accord.learn.loop.checkpoints import remove_checkpoints
from accord.learn.loop.destinations import check_destinations, upload_if_asked
from accord.learn.loop.fit import StepResult
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.loop.learner import make_learner
from accord.learn.loop.limits import cap_prompts_to_positions, check_room_for_prompt
from accord.learn.loop.processes import limit_waiting, processes
from accord.learn.loop.schedule import RowOrder, num_batches
from accord.learn.loop.stage import run_with_checkpoints
from accord.learn.loop.state import TrainState
from accord.learn.offline.rows import encode_rows
from accord.learn.online.evaluate import evaluate_policy
from accord.learn.online.guards import OnlineState
from accord.learn.online.loop import run_iterations
from accord.learn.online.roles import Roles, critic_learning_rate, load_roles
from accord.learn.online.saved_episodes import remove_episodes, remove_stale_episodes
from accord.learn.online.step import PtxRows
from accord.lm.load import save_model
from accord.lm.loading.critics import save_critic
from accord.lm.model import LanguageModel
from accord.lm.tokens.encode import Limits, encode_prompts
from accord.lm.tokens.known_tokens import check_token_ids
from accord.lm.tokens.template import how_to_read_dialogues
from accord.records import PromptOnly
from accord.runs import write_json_atomic
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings

log = logging.getLogger(__name__)

CRITIC_NOTE = (
    "This is the critic of the run below: a model with a scalar head that estimates the reward to "
    "come before each token. Another run starts from it with `critic_model`.\n\n"
)


def train_online(
    name: str,
    settings: OnlineSettings,
    memory: InMemory = NOTHING,
    *,
    world: World | None = None,
) -> Generator[StepResult, None, LanguageModel]:
    """Train a policy by ONLINE[name], yielding after each iteration; writes `output_dir/model`.

    Close the generator to stop between two iterations: a checkpoint is written, and the same call
    resumes from it. `world` gives the embedded world's reward where that is a source; `memory`
    holds objects that replace paths. Returns the trained policy.
    """
    procs = processes()
    limit_waiting(settings.ddp_timeout)
    check_destinations(settings)
    limit = f"within max_length={settings.max_length}"
    check_room_for_prompt(settings, limit, "Raise max_length, or lower max_new_tokens.")
    roles = load_roles(settings, memory, world=world)
    policy = roles.policy
    settings = cap_prompts_to_positions(settings, (policy, roles.critic, roles.reference))
    folder = Path(settings.output_dir)
    dataset = memory.rows("dataset", settings.dataset)
    prompts, records = _load_prompts(dataset, policy, settings, folder / "data.json")
    _check_columns(roles.reward, records)
    held_out = None
    if settings.eval_dataset is not None:
        dataset = memory.rows("eval_dataset", settings.eval_dataset)
        held_out = _load_prompts(dataset, policy, settings, folder / "eval_data.json")
        _check_columns(roles.reward, held_out[1])
    if procs.is_main:
        remove_stale_episodes(folder)
    ptx_rows = _load_ptx_rows(policy, settings, memory)
    learners = {"policy": make_learner(policy, settings, settings.learning_rate)}
    if roles.critic is not None:
        learners["critic"] = make_learner(roles.critic, settings, critic_learning_rate(settings))
    state = TrainState(learners, OnlineState(beta=settings.beta))
    iterations = settings.max_steps or num_batches(
        settings.num_train_epochs, len(prompts), settings.prompts_per_iteration * procs.world_size
    )
    steps = run_with_checkpoints(
        lambda s: run_iterations(
            memory.method or name,
            s,
            roles,
            prompts,
            records,
            settings,
            iterations=iterations,
            folder=folder,
            ptx_rows=ptx_rows,
        ),
        state,
        settings,
        None
        if held_out is None
        else lambda: evaluate_policy(roles, *held_out, settings, state.progress.beta),
    )
    try:
        yield from steps
    finally:
        if procs.is_main:
            with suppress(StorageError):  # the loop has raised the disk's error already
                write_usage(roles.reward, folder)
            roles.close()
        for learner in state.learners.values():
            learner.use_masters()
    if procs.is_main and memory.save_model:
        _save_models(roles, name, settings)
    return policy


def _check_columns(reward: Reward, records: Sequence[PromptOnly]) -> None:
    """Raise RewardError where the reward needs a column that the rows of a data set lack."""
    check_reward_rows(reward, [r.prompt for r in records], [r.meta for r in records])


def _save_models(roles: Roles, name: str, settings: OnlineSettings) -> None:
    """Write `critic/`, where there is one, and `model/`, then remove what only an unfinished run
    needs."""
    folder, policy = Path(settings.output_dir), roles.policy
    card, dtype = model_card(policy, name, settings), settings.save_dtype
    if roles.critic is not None:
        save_critic(roles.critic, policy, folder / "critic", card=CRITIC_NOTE + card, dtype=dtype)
    save_model(policy, folder / "model", card=card, dtype=dtype)
    remove_episodes(folder)  # before the checkpoints, which identify them
    remove_checkpoints(folder)
    upload_if_asked(settings)


def _load_ptx_rows(
    policy: LanguageModel, settings: OnlineSettings, memory: InMemory
) -> PtxRows | None:
    """The rows of PPO-ptx, if `ptx_dataset` is set."""
    if not isinstance(settings, PpoSettings) or settings.ptx_dataset is None:
        return None
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, policy.tokenizer)
    ptx_rows = memory.rows("ptx_dataset", settings.ptx_dataset)
    records, read = load_records(ptx_rows, "sft", dialogue_text)
    rows, encoded = encode_rows(records, policy, settings)
    log.info("%s", read.summary())
    log.info("%s: %s", read.path, encoded.summary())
    return PtxRows(rows, RowOrder(len(rows), settings.seed))


def _load_prompts(
    dataset: str | Iterable[Any],
    policy: LanguageModel,
    settings: OnlineSettings,
    report_path: Path,
) -> tuple[list[tuple[int, ...]], list[PromptOnly]]:
    """Prompt ids with their records, within the length that the response leaves."""
    dialogue_text = how_to_read_dialogues(settings.dialogue_text, policy.tokenizer)
    records, read = load_records(dataset, "prompts", dialogue_text)
    room = settings.max_length - settings.max_new_tokens
    limits = Limits(
        settings.max_length, min(settings.max_prompt_length or room, room), settings.long_prompts
    )
    candidates = [r for r in records if isinstance(r, PromptOnly)]
    prompts, used, encoded = encode_prompts(candidates, policy.tokenizer, limits)
    check_token_ids(policy, prompts)
    log.info("%s", read.summary())
    log.info("%s: %s", read.path, encoded.summary())
    if processes().is_main:
        report_path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(report_path, {"read": read.to_json(), "encoded": encoded.to_json()})
    return prompts, used
