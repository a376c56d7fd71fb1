"""Online training that continues an adapter: its reference, critic and reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.learn.offline.train import train_offline
from accord.learn.online.roles import load_roles
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, token_values
from accord.lm.load import load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.settings.ppo import PpoSettings
from accord.settings.training import RewardSettings
from tests.learn.online.saved_roles import probe_batch
from tests.learn.toys.adapters import CONTINUE, AdapterToys


def ppo_settings(adapters: AdapterToys, output: Path | str, **overrides: Any) -> PpoSettings:
    return PpoSettings(
        **{
            "model": adapters.adapter,
            "rewards": [{"kind": "length", "at_least": 3}],
            "dataset": adapters.prompts,
            "output_dir": str(output),
            "per_device_train_batch_size": 4,
            "max_new_tokens": 5,
            "num_ppo_epochs": 1,
            "learning_rate": 1e-2,
            "max_length": 64,
            "max_steps": 3,
            "lora": CONTINUE,
            "device": "cpu",
            **overrides,
        }
    )


@torch.no_grad()
def probe_logps(lm: LanguageModel) -> Tensor:
    return response_logps(lm, probe_batch())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_kl_is_to_the_adapter_as_it_was_at_the_start(
    precision: str, adapter_toys: AdapterToys, tmp_path: Path
) -> None:
    settings = ppo_settings(adapter_toys, tmp_path, precision=precision)
    rows = [r.metrics for r in train_online("ppo", settings)]
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert abs(rows[-1]["objective/kl"]) > 1e-4
    start = probe_logps(load_causal(adapter_toys.adapter))
    trained = probe_logps(load_causal(str(tmp_path / "model")))
    assert float((trained - start).abs().max()) > 1e-4
    assert (tmp_path / "model/adapter_config.json").is_file()


def test_all_roles_start_from_the_continued_adapter_and_the_critic_is_a_copy(
    adapter_toys: AdapterToys,
) -> None:
    roles = load_roles(ppo_settings(adapter_toys, "nowhere"))
    assert roles.critic is not None
    assert roles.reference is not None
    assert roles.reference.model is roles.critic.model is roles.policy.model
    start = probe_logps(load_causal(adapter_toys.adapter))
    for lm in (roles.policy, roles.reference):
        torch.testing.assert_close(probe_logps(lm), start, rtol=0, atol=1e-4)
    # The critic begins with the policy's matrices, so it reads the same states; but as a copy.
    policy_parameters = dict(roles.policy.model.named_parameters())
    critic_parameters = {
        n: p for n, p in roles.critic.trainable_parameters().items() if ".critic." in n
    }
    assert len(critic_parameters) == len(roles.policy.trainable_parameters())
    for name, parameter in critic_parameters.items():
        assert torch.equal(parameter, policy_parameters[name.replace(".critic.", ".default.")])
    values = token_values(roles.critic, probe_batch())
    with torch.no_grad():
        for parameter in roles.policy.trainable_parameters().values():
            parameter.mul_(2)
    assert torch.equal(token_values(roles.critic, probe_batch()), values)
    torch.testing.assert_close(probe_logps(roles.reference), start, rtol=0, atol=1e-4)


def test_the_base_can_be_the_reference(adapter_toys: AdapterToys) -> None:
    settings = ppo_settings(adapter_toys, "nowhere", ref_model=adapter_toys.base)
    reference = load_roles(settings).reference
    assert reference is not None
    expected = probe_logps(load_causal(adapter_toys.base))
    torch.testing.assert_close(probe_logps(reference), expected)


def test_a_reward_model_that_continues_the_same_adapter_is_on_the_same_base(
    adapter_toys: AdapterToys, tmp_path: Path
) -> None:
    reward = RewardSettings(
        model=adapter_toys.adapter,
        dataset=adapter_toys.pairs,
        output_dir=str(tmp_path / "rm"),
        max_steps=2,
        max_length=64,
        learning_rate=1e-3,
        lora=CONTINUE,
        device="cpu",
    )
    for _ in train_offline("reward", reward):
        pass
    path = str(tmp_path / "rm/model")
    roles = load_roles(ppo_settings(adapter_toys, "nowhere", rewards=None, reward_model=path))
    (scorer,) = roles.reward.models
    assert scorer.model is roles.policy.model
    expected = token_values(load_scalar(path), probe_batch())
    assert roles.critic is not None
    values = token_values(roles.critic, probe_batch())
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-4)
    settings = ppo_settings(adapter_toys, tmp_path, rewards=None, reward_model=path)
    rows = [r.metrics for r in train_online("ppo", settings)]
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
