"""The stage around PPO: load the roles, go on from a checkpoint, write the policy."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

from accord.compare.dataset import load_records
from accord.errors import SettingsError
from accord.learn.checkpoints import TrainState, remove_checkpoints
from accord.learn.fit import StepResult
from accord.learn.learner import make_learner
from accord.learn.ppo import held_out, ppo
from accord.learn.processes import only_one
from accord.learn.roles import load_roles
from accord.learn.stage import keep_going, model_card
from accord.lm.encode import Limits, encode_prompts
from accord.lm.load import save_model
from accord.lm.model import LanguageModel
from accord.records import PromptOnly
from accord.runs import write_json_atomic
from accord.settings.ppo import PpoSettings

log = logging.getLogger(__name__)


def train_ppo(settings: PpoSettings) -> Iterator[StepResult]:
    """Train a policy by PPO, yielding after each iteration; writes `output_dir/model`.

    Close the generator to stop between two iterations: a checkpoint is written, and the same call
    goes on from it.
    """
    only_one("PPO")
    if settings.max_length - settings.max_new_tokens < 1:
        raise SettingsError(
            f"max_new_tokens={settings.max_new_tokens} leaves no room for a prompt within "
            f"max_length={settings.max_length}. Raise max_length, or lower max_new_tokens."
        )
    roles = load_roles(settings)
    policy, critic = roles.policy, roles.critic
    assert critic is not None
    folder = Path(settings.output_dir)
    prompts, kept = _prompts(settings.dataset, policy, settings, folder / "data.json")
    unseen = None
    if settings.eval_dataset is not None:
        place = folder / "eval_data.json"
        unseen = _prompts(settings.eval_dataset, policy, settings, place)
    state = TrainState(
        {
            "policy": make_learner(policy, settings, settings.learning_rate),
            "critic": make_learner(critic, settings, settings.critic_learning_rate),
        }
    )
    episodes = settings.per_device_train_batch_size
    iterations = settings.max_steps or math.ceil(
        settings.num_train_epochs * len(prompts) / episodes
    )
    yield from keep_going(
        lambda s: ppo(s, roles, prompts, kept, settings, iterations=iterations),
        state,
        settings,
        None if unseen is None else lambda: held_out(roles, *unseen, settings),
    )
    state.learners["policy"].restore()
    save_model(policy, folder / "model", card=model_card(policy, "ppo", settings))
    remove_checkpoints(folder)


def _prompts(
    place: str, policy: LanguageModel, settings: PpoSettings, told: Path
) -> tuple[list[tuple[int, ...]], list[PromptOnly]]:
    """Prompt ids with their records, within the room that the response leaves."""
    records, read = load_records(place, "prompts")
    room = settings.max_length - settings.max_new_tokens
    limits = Limits(
        settings.max_length, min(settings.max_prompt_length or room, room), settings.long_prompts
    )
    wanted = [r for r in records if isinstance(r, PromptOnly)]
    prompts, kept, encoded = encode_prompts(wanted, policy.tokenizer, limits)
    log.info("%s", read.summary())
    log.info("%s: %s", place, encoded.summary())
    told.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(told, {"read": read.to_json(), "encoded": encoded.to_json()})
    return prompts, kept
