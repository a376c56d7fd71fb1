"""A run's critic is saved, whatever it shares with the policy, and another run starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from accord.compare.rewards.models import model_reward
from accord.errors import ModelError, SettingsError
from accord.learn.online.roles import Roles, load_roles
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, token_values
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.loading.critics import save_critic
from accord.lm.model import LanguageModel
from tests.learn.online.saved_roles import (
    CRITICS,
    LORA,
    RoleToys,
    ppo_settings,
    probe_batch,
)
from tests.learn.toys.saved import save_with_other_tokenizer


@torch.no_grad()
def values(critic: LanguageModel) -> Tensor:
    return token_values(critic, probe_batch())


@torch.no_grad()
def trained_roles(toys: RoleToys, critic: str | None, lora: dict[str, int] | None) -> Roles:
    """Roles whose policy and critic have moved from their start, a head's bias too."""
    roles = load_roles(ppo_settings(toys, critic=critic, lora=lora))
    assert roles.critic is not None
    generator = torch.Generator().manual_seed(0)
    for lm in (roles.policy, roles.critic):
        for parameter in lm.trainable_parameters().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return roles


@pytest.mark.parametrize(("critic", "lora"), CRITICS)
def test_a_saved_critic_has_the_values_of_the_trained_one(
    critic: str | None, lora: dict[str, int] | None, role_toys: RoleToys, tmp_path: Path
) -> None:
    roles = trained_roles(role_toys, critic, lora)
    assert roles.critic is not None
    with torch.no_grad():
        logps = response_logps(roles.policy, probe_batch())
    expected = values(roles.critic)
    folder = tmp_path / "critic"
    save_critic(roles.critic, roles.policy, folder, card="")
    assert (folder / "adapter_config.json").exists() == (lora is not None)
    torch.testing.assert_close(values(load_scalar(str(folder))), expected, rtol=0, atol=1e-4)
    # The policy is saved after it, unchanged by that.
    save_model(roles.policy, tmp_path / "model", card="")
    with torch.no_grad():
        again = response_logps(load_causal(str(tmp_path / "model")), probe_batch())
    torch.testing.assert_close(again, logps, rtol=0, atol=1e-4)
    # Another run's critic starts there, in each arrangement with weights of its own.
    for start, adapters in ((None, LORA), ("separate", LORA), (None, None)):
        settings = ppo_settings(role_toys, critic=start, lora=adapters, critic_model=str(folder))
        next_critic = load_roles(settings).critic
        assert next_critic is not None
        torch.testing.assert_close(values(next_critic), expected, rtol=0, atol=1e-4)
        assert next_critic.trainable_parameters()


def test_a_critic_on_a_merged_base_is_saved_as_a_full_model(
    role_toys: RoleToys, tmp_path: Path
) -> None:
    roles = trained_roles(role_toys, None, LORA)
    assert roles.critic is not None
    expected = values(roles.critic)
    roles.policy.unsaved = True  # as where an adapter was merged into the base
    save_critic(roles.critic, roles.policy, tmp_path / "critic", card="")
    assert not (tmp_path / "critic" / "adapter_config.json").exists()
    saved = load_scalar(str(tmp_path / "critic"))
    torch.testing.assert_close(values(saved), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(values(roles.critic), expected, rtol=0, atol=0)


def test_a_run_writes_its_critic_which_is_no_reward_model(
    role_toys: RoleToys, tmp_path: Path
) -> None:
    list(train_online("ppo", ppo_settings(role_toys, tmp_path, max_steps=1)))
    assert "This is the critic of the run" in (tmp_path / "critic" / "README.md").read_text()
    critic = load_scalar(str(tmp_path / "critic"))
    with pytest.raises(ModelError, match=r"is a critic.*name it in `critic_model`"):
        model_reward(critic)(["the cat"], ["yes"])


def test_a_critic_of_another_tokenizer_or_place_is_refused(
    role_toys: RoleToys, tmp_path: Path
) -> None:
    text = "entirely different words are in here"
    save_with_other_tokenizer(tmp_path / "other", "llama", text, 280, seed=4)
    save_model(load_scalar(str(tmp_path / "other"), new_head=True), tmp_path / "rm", card="")
    with pytest.raises(SettingsError, match="has another tokenizer than the policy"):
        load_roles(ppo_settings(role_toys, critic_model=str(tmp_path / "rm")))
    with pytest.raises(ModelError, match="no trained scalar head"):
        load_roles(ppo_settings(role_toys, critic_model=role_toys.base))
    with pytest.raises(ValueError, match="is a critic on weights of its own"):
        ppo_settings(role_toys, critic="shared", critic_model=role_toys.whole_reward)
