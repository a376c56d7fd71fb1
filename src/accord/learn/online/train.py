"""The stage around PPO, GRPO and RLOO: load the roles, go on, write the policy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from accord.compare.dataset import load_records
from accord.compare.rewards.build import World
from accord.compare.rewards.reward import write_usage
from accord.errors import SettingsError, StorageError
from accord.learn.loop.checkpoints import TrainState, remove_checkpoints
from accord.learn.loop.fit import StepResult
from accord.learn.loop.learner import make_learner
from accord.learn.loop.limits import cap_prompts_to_positions
from accord.learn.loop.order import RowOrder, parts_of_epochs
from accord.learn.loop.processes import processes
from accord.learn.loop.stage import model_card, run_with_checkpoints
from accord.learn.offline.train import encode_rows
from accord.learn.online.collecting import held_out
from accord.learn.online.loop import learn_online
from accord.learn.online.roles import load_roles
from accord.learn.online.saved_episodes import drop_strays, remove_episodes
from accord.learn.online.step import Pretraining
from accord.lm.load import save_model
from accord.lm.model import LanguageModel
from accord.lm.tokens.encode import Limits, encode_prompts
from accord.lm.tokens.known_tokens import check_token_ids
from accord.records import PromptOnly
from accord.runs import write_json_atomic
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings

log = logging.getLogger(__name__)


def train_online(
    name: str, settings: OnlineSettings, *, world: World | None = None
) -> Iterator[StepResult]:
    """Train a policy by ONLINE[name], yielding after each iteration; writes `output_dir/model`.

    Close the generator to stop between two iterations: a checkpoint is written, and the same call
    goes on from it. `world` gives the embedded world's reward where that is a source.
    """
    team = processes()
    if settings.max_length - settings.max_new_tokens < 1:
        raise SettingsError(
            f"max_new_tokens={settings.max_new_tokens} leaves no room for a prompt within "
            f"max_length={settings.max_length}. Raise max_length, or lower max_new_tokens."
        )
    roles = load_roles(settings, world=world)
    policy = roles.policy
    settings = cap_prompts_to_positions(settings, (policy, roles.critic, roles.reference))
    folder = Path(settings.output_dir)
    prompts, kept = _prompts(settings.dataset, policy, settings, folder / "data.json")
    unseen = None
    if settings.eval_dataset is not None:
        place = folder / "eval_data.json"
        unseen = _prompts(settings.eval_dataset, policy, settings, place)
    if team.is_main:
        drop_strays(folder)
    pretraining = _pretraining(policy, settings)
    learners = {"policy": make_learner(policy, settings, settings.learning_rate)}
    if roles.critic is not None:
        rate = getattr(settings, "critic_learning_rate", None)
        learners["critic"] = make_learner(roles.critic, settings, rate)
    state = TrainState(learners)
    iterations = settings.max_steps or parts_of_epochs(
        settings.num_train_epochs, len(prompts), settings.prompts_per_iteration * team.world_size
    )
    steps = run_with_checkpoints(
        lambda s: learn_online(
            name,
            s,
            roles,
            prompts,
            kept,
            settings,
            iterations=iterations,
            folder=folder,
            pretraining=pretraining,
        ),
        state,
        settings,
        None
        if unseen is None
        else lambda: held_out(
            roles, *unseen, settings, float(state.numbers.get("beta", settings.beta))
        ),
    )
    try:
        yield from steps
    finally:
        if team.is_main:
            with suppress(StorageError):  # a full disk has an error of its own already
                write_usage(roles.reward, folder)
            roles.leave()
    state.learners["policy"].restore()
    if team.is_main:
        save_model(policy, folder / "model", card=model_card(policy, name, settings))
        remove_episodes(folder)  # before the checkpoints, which tell whose they are
        remove_checkpoints(folder)


def _pretraining(policy: LanguageModel, settings: OnlineSettings) -> Pretraining | None:
    """The rows of PPO-ptx, where they are asked for."""
    if not isinstance(settings, PpoSettings) or settings.ptx_dataset is None:
        return None
    records, read = load_records(settings.ptx_dataset, "sft")
    rows, encoded = encode_rows(records, policy, settings)
    log.info("%s", read.summary())
    log.info("%s: %s", settings.ptx_dataset, encoded.summary())
    return Pretraining(rows, RowOrder(len(rows), settings.seed))


def _prompts(
    place: str, policy: LanguageModel, settings: OnlineSettings, told: Path
) -> tuple[list[tuple[int, ...]], list[PromptOnly]]:
    """Prompt ids with their records, within the room that the response leaves."""
    records, read = load_records(place, "prompts")
    room = settings.max_length - settings.max_new_tokens
    limits = Limits(
        settings.max_length, min(settings.max_prompt_length or room, room), settings.long_prompts
    )
    wanted = [r for r in records if isinstance(r, PromptOnly)]
    prompts, kept, encoded = encode_prompts(wanted, policy.tokenizer, limits)
    check_token_ids(policy, prompts)
    log.info("%s", read.summary())
    log.info("%s: %s", place, encoded.summary())
    if processes().is_main:
        told.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(told, {"read": read.to_json(), "encoded": encoded.to_json()})
    return prompts, kept
