"""The stage of an online method: load the roles, run the loop, write the policy."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from accord.compare.rewards.reward import Reward, World, check_reward_rows, write_usage
from accord.data.kinds import Kind
from accord.data.selection import ReadRows
from accord.errors import StorageError
from accord.learn.loop.card import model_card
from accord.learn.loop.checkpoints import remove_checkpoints
from accord.learn.loop.datasets import eval_prefixes, read_datasets, report_name
from accord.learn.loop.destinations import check_destinations, upload_if_asked
from accord.learn.loop.fit import StepResult
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.loop.learner import Learner, make_learner
from accord.learn.loop.limits import cap_prompts_to_positions, check_room_for_prompt
from accord.learn.loop.processes import limit_waiting, naming_lost_processes, processes
from accord.learn.loop.schedule import RowOrder, num_batches
from accord.learn.loop.sharding import load_divided, resolve_sharding
from accord.learn.loop.stage import Grade, run_with_checkpoints
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
from accord.lm.sharding.saving import gather_to_main
from accord.lm.tokens.encode import Limits, encode_prompts
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.known_tokens import check_token_ids
from accord.records import PromptOnly, Record
from accord.runs import write_json_atomic
from accord.settings.online import OnlineSettings

log = logging.getLogger(__name__)

CRITIC_NOTE = (
    "This is the critic of the run below: a model with a scalar head that estimates the reward to "
    "come before each token. Another run starts from it with `critic_model`.\n\n"
)

DATASET_KINDS: dict[str, Kind] = {
    "dataset": "prompts",
    "eval_dataset": "prompts",
    "ptx_dataset": "sft",
}
"""The kind of records that is read from each data set that the settings may name."""


@naming_lost_processes
def train_online(
    name: str,
    settings: OnlineSettings,
    memory: InMemory = NOTHING,
    *,
    world: World | None = None,
    grade: Grade | None = None,
) -> Generator[StepResult, None, LanguageModel]:
    """Train a policy by ONLINE[name], yielding after each iteration; writes `output_dir/model`.

    Close the generator to stop between two iterations: a checkpoint is written, and the same call
    resumes from it. `world` gives the embedded world's reward where that is a source; `memory`
    holds objects that replace paths, and `grade` measures the policy's answers every
    `safety_steps`. Returns the trained policy.
    """
    procs = processes()
    limit_waiting(settings.ddp_timeout)
    settings = resolve_sharding(settings, memory)
    check_destinations(settings)
    limit = f"within max_length={settings.max_length}"
    check_room_for_prompt(settings, limit, "Raise max_length, or lower max_new_tokens.")
    read = read_datasets(settings, DATASET_KINDS, memory)
    roles = load_divided(
        lambda: load_roles(settings, memory, world=world), lambda loaded: loaded.models, settings
    )
    with ExitStack() as ending:
        if procs.is_main:
            ending.callback(roles.close)  # the engine, whatever fails
        policy = roles.policy
        settings = cap_prompts_to_positions(settings, (policy, roles.critic, roles.reference))
        state, steps = _begin(memory.method or name, settings, roles, read, grade)
        try:
            yield from steps
        finally:
            if procs.is_main:
                with suppress(StorageError):  # the loop has raised the disk's error already
                    write_usage(roles.reward, Path(settings.output_dir))
            for learner in state.learners.values():
                learner.use_masters()
    saved = [lm for lm in (policy, roles.critic) if lm is not None]
    gather_to_main(saved, settings.save_dtype, is_main=procs.is_main)
    if procs.is_main and memory.save_model:
        _save_models(roles, name, settings)
    return policy


def _begin(
    method: str,
    settings: OnlineSettings,
    roles: Roles,
    read: Mapping[str, ReadRows],
    grade: Grade | None,
) -> tuple[TrainState[OnlineState], Iterator[StepResult]]:
    """The state of a run at its start, and its steps."""
    policy = roles.policy
    folder = Path(settings.output_dir)
    prompts, records = _load_prompts(read["dataset"], policy, settings, folder / "data.json")
    held_out = {
        prefix: _load_prompts(read[key], policy, settings, folder / report_name(key))
        for key, prefix in eval_prefixes(read).items()
    }
    _check_columns(roles.reward, records, *(rows for _, rows in held_out.values()))
    if processes().is_main:
        remove_stale_episodes(folder)
    ptx_rows = _load_ptx_rows(policy, settings, read.get("ptx_dataset"))
    state = TrainState(_make_learners(roles, settings), OnlineState(beta=settings.beta))
    return state, run_with_checkpoints(
        lambda s: run_iterations(
            method,
            s,
            roles,
            prompts,
            records,
            settings,
            iterations=_iterations(settings, len(prompts), s),
            folder=folder,
            ptx_rows=ptx_rows,
        ),
        state,
        settings,
        partial(_evaluate, roles, held_out, settings, state) if held_out else None,
        None if grade is None else partial(grade, policy),
        models=[policy],
    )


def _make_learners(roles: Roles, settings: OnlineSettings) -> dict[str, Learner]:
    learners = {"policy": make_learner(roles.policy, settings, settings.learning_rate)}
    if roles.critic is not None:
        learners["critic"] = make_learner(roles.critic, settings, critic_learning_rate(settings))
    return learners


def _iterations(settings: OnlineSettings, num_prompts: int, state: TrainState[OnlineState]) -> int:
    """Iterations of a run, each with the prompts of the processes that it began with."""
    count = settings.prompts_per_iteration * state.begun_with
    return settings.max_steps or num_batches(settings.num_train_epochs, num_prompts, count)


def _check_columns(reward: Reward, *data: Sequence[PromptOnly]) -> None:
    """Raise RewardError where the reward needs a column that the rows of a data set lack."""
    for records in data:
        check_reward_rows(reward, [r.prompt for r in records], [r.meta for r in records])


def _evaluate(
    roles: Roles,
    held_out: Mapping[str, tuple[list[tuple[int, ...]], list[PromptOnly]]],
    settings: OnlineSettings,
    state: TrainState[OnlineState],
) -> dict[str, float]:
    """The metrics on each held-out set of prompts, with its prefix."""
    return {
        prefix + name: value
        for prefix, (prompts, records) in held_out.items()
        for name, value in evaluate_policy(
            roles, prompts, records, settings, state.progress.beta
        ).items()
    }


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
    policy: LanguageModel, settings: OnlineSettings, dataset: ReadRows | None
) -> PtxRows | None:
    """The rows of PPO-ptx, if `ptx_dataset` is set."""
    if dataset is None:
        return None
    read = dataset.report
    rows, encoded = encode_rows(dataset.records, policy, settings)
    log.info("%s: %s", read.name, read.summary())
    log.info("%s: %s.", read.name, encoded.summary())
    return PtxRows(rows, RowOrder(len(rows), settings.seed))


def encode_prompt_rows(
    records: Sequence[Record], policy: LanguageModel, settings: OnlineSettings
) -> tuple[list[tuple[int, ...]], list[PromptOnly], EncodeReport]:
    """Prompt ids with their records, within the length that the response leaves, and a report.

    Raises ModelError where the tokenizer gives tokens that the model has no embedding for.
    """
    room = settings.max_length - settings.max_new_tokens
    limits = Limits(
        settings.max_length, min(settings.max_prompt_length or room, room), settings.long_prompts
    )
    candidates = [r for r in records if isinstance(r, PromptOnly)]
    prompts, used, encoded = encode_prompts(candidates, policy.tokenizer, limits)
    check_token_ids(policy, prompts)
    return prompts, used, encoded


def _load_prompts(
    dataset: ReadRows,
    policy: LanguageModel,
    settings: OnlineSettings,
    report_path: Path,
) -> tuple[list[tuple[int, ...]], list[PromptOnly]]:
    """Prompt ids with their records, within the length that the response leaves."""
    read = dataset.report
    prompts, used, encoded = encode_prompt_rows(dataset.records, policy, settings)
    log.info("%s: %s", read.name, read.summary())
    log.info("%s: %s.", read.name, encoded.summary())
    if processes().is_main:
        report_path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(report_path, {"read": read.to_json(), "encoded": encoded.to_json()})
    return prompts, used
