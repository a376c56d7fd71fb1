"""The roles of online learning as they are loaded: what they share, and where they start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.compare.rewards.models import model_reward
from accord.errors import SettingsError
from accord.learn.loop.learner import Learner, make_learner
from accord.learn.online import roles as roles_module
from accord.learn.online.memory import RoleMemory, memory_plan, memory_report
from accord.learn.online.roles import Roles, load_roles
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, share_forward_pass, states_before, token_values
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.settings.ppo import PpoSettings
from tests.learn.online.saved_roles import CRITICS, LORA, RoleToys, ppo_settings, probe_batch
from tests.learn.toys.saved import save_with_other_tokenizer


def load_with_plan(settings: PpoSettings) -> tuple[Roles, dict[str, RoleMemory]]:
    """The roles, and the memory plan that was logged of them."""
    plans: list[dict[str, RoleMemory]] = []

    def recorded(models: Any, optim: Any) -> dict[str, RoleMemory]:
        plans.append(memory_plan(models, optim))
        return plans[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles_module, "memory_plan", recorded)
        roles = load_roles(settings)
    return roles, plans[0]


def reward_memory(plan: dict[str, RoleMemory]) -> RoleMemory:
    (memory,) = (memory for role, memory in plan.items() if role.startswith("reward "))
    return memory


def probe_scores(roles: Roles) -> list[float]:
    return roles.reward(["the cat", "a dog"], ["sat on the mat", "ran"], [True, True])


def take_step(lm: LanguageModel, learner: Learner, forward: Any) -> None:
    forward(lm, probe_batch()).sum().backward()
    learner.optimiser.step()
    learner.optimiser.zero_grad(set_to_none=True)
    learner.sync_copies()


def test_under_lora_all_roles_are_on_one_base(role_toys: RoleToys) -> None:
    roles, plan = load_with_plan(ppo_settings(role_toys, lora=LORA))
    assert roles.critic is not None
    assert roles.reference is not None
    assert roles.critic.model is roles.policy.model
    assert roles.reference.model is roles.policy.model
    assert not share_forward_pass(roles.policy, roles.critic)
    base = sum(p.nbytes for p in load_causal(role_toys.base).model.parameters())
    adapter = 4 * sum(p.numel() for p in roles.policy.trainable_parameters().values())
    assert plan["policy"] == RoleMemory(base + adapter, 0, adapter, 2 * adapter)
    assert plan["reference"] == RoleMemory()
    assert reward_memory(plan) == RoleMemory(adapter + 4 * 32)
    critic = adapter + 4 * 33
    assert plan["critic"] == RoleMemory(critic, 0, critic, 2 * critic)


@pytest.mark.parametrize("critic", ["adapter", "separate"])
def test_the_critic_starts_at_the_reward_models_scores(critic: str, role_toys: RoleToys) -> None:
    expected = token_values(load_scalar(role_toys.adapter_reward), probe_batch())
    roles = load_roles(ppo_settings(role_toys, lora=LORA, critic=critic))
    assert roles.critic is not None
    values = token_values(roles.critic, probe_batch())
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-4)


def test_beside_a_whole_reward_model_the_critic_starts_from_a_new_head(
    role_toys: RoleToys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = ppo_settings(role_toys, lora=LORA, reward_model=role_toys.whole_reward)
    roles, plan = load_with_plan(settings)
    assert "is loaded separately: it is a full model" in caplog.text
    assert "start from a new head" in caplog.text
    assert "memory of the reference, MB: none of its own" in caplog.text
    assert roles.critic is not None
    assert roles.reference is not None
    assert roles.critic.model is roles.policy.model
    whole = load_scalar(role_toys.whole_reward).model
    assert reward_memory(plan) == RoleMemory(sum(p.nbytes for p in whole.parameters()))
    # Adapters that do nothing yet: the values are the new head's on the base's states.
    assert roles.critic.score is not None
    expected = roles.critic.score(states_before(roles.reference, probe_batch())).squeeze(-1)
    torch.testing.assert_close(token_values(roles.critic, probe_batch()), expected)


def test_one_reward_model_shares_the_base_and_a_second_is_loaded_separately(
    role_toys: RoleToys, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sources = [
        {"kind": "reward_model", "name": name, "model": role_toys.adapter_reward}
        for name in ("a", "b")
    ]
    roles, plan = load_with_plan(
        ppo_settings(role_toys, lora=LORA, reward_model=None, rewards=sources)
    )
    assert "another reward model is on the policy's base already" in caplog.text
    first, second = (memory for role, memory in plan.items() if role.startswith("reward "))
    assert 0 < first.weights < second.weights
    single = load_roles(ppo_settings(role_toys, lora=LORA))
    torch.testing.assert_close(
        torch.tensor(probe_scores(roles)),
        2 * torch.tensor(probe_scores(single)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_without_values_and_kl_no_critic_and_reference_are_loaded(role_toys: RoleToys) -> None:
    roles = load_roles(ppo_settings(role_toys, lora=LORA, vf_coef=0, gae_lambda=1, beta=0))
    assert roles.critic is None
    assert roles.reference is None
    names = [name for name, _ in roles.policy.model.named_parameters()]
    assert not any(".critic." in name for name in names)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("critic", "lora"), CRITICS)
def test_the_memory_plan_has_the_sizes_of_the_tensors_in_training(
    critic: str | None, lora: dict[str, int] | None, precision: str, role_toys: RoleToys
) -> None:
    settings = ppo_settings(role_toys, critic=critic, lora=lora, precision=precision)
    roles, plan = load_with_plan(settings)
    assert roles.critic is not None
    learners = {
        "policy": make_learner(roles.policy, settings),
        "critic": make_learner(roles.critic, settings),
    }
    for name, lm, forward in (
        ("policy", roles.policy, response_logps),
        ("critic", roles.critic, token_values),
    ):
        forward(lm, probe_batch()).sum().backward()
        learner = learners[name]
        assert all(p.grad is not None for p in learner.parameters.values()), name
        learner.optimiser.step()
        moments = [
            value
            for state in learner.optimiser.state.values()
            for key, value in state.items()
            if key != "step"
        ]
        masters = [p for n, p in learner.parameters.items() if n in learner.copies]
        gradients = [p.grad for p in learner.parameters.values() if p.grad is not None]
        assert plan[name].masters == sum(p.nbytes for p in masters), name
        assert plan[name].gradients == sum(g.nbytes for g in gradients), name
        assert plan[name].moments == sum(m.nbytes for m in moments), name
    storage_sizes = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for lm in (roles.policy, roles.critic, roles.reference)
        if lm is not None
        for p in lm.view_parameters().values()
    }
    planned = sum(plan[name].weights for name in ("policy", "critic", "reference"))
    assert planned == sum(storage_sizes.values())
    assert memory_report(plan)[-1].startswith("memory of all roles, MB: ")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_one_role_moves_no_other(precision: str, role_toys: RoleToys) -> None:
    settings = ppo_settings(role_toys, lora=LORA, precision=precision)
    roles = load_roles(settings)
    assert roles.critic is not None
    assert roles.reference is not None
    policy = make_learner(roles.policy, settings)
    critic = make_learner(roles.critic, settings)

    def outputs() -> dict[str, Any]:
        assert roles.critic is not None
        assert roles.reference is not None
        with torch.no_grad():
            return {
                "policy": response_logps(roles.policy, probe_batch()).tolist(),
                "critic": token_values(roles.critic, probe_batch()).tolist(),
                "reference": response_logps(roles.reference, probe_batch()).tolist(),
                "reward": probe_scores(roles),
            }

    def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
        return {role for role in before if before[role] != after[role]}

    start = outputs()
    take_step(roles.policy, policy, response_logps)
    after_policy = outputs()
    assert changed(start, after_policy) == {"policy"}
    take_step(roles.critic, critic, token_values)
    assert changed(after_policy, outputs()) == {"critic"}


def test_an_adapter_critic_needs_lora(role_toys: RoleToys) -> None:
    with pytest.raises(ValueError, match="`critic=adapter` is LoRA on the policy's base"):
        ppo_settings(role_toys, critic="adapter")


def test_a_reward_model_shorter_than_answers_is_refused_and_than_prompts_warned_of(
    role_toys: RoleToys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = load_scalar(role_toys.whole_reward)
    scorer.max_length = 16
    save_model(scorer, tmp_path / "short", card="")
    path = str(tmp_path / "short")
    with pytest.raises(SettingsError, match="reads 16 tokens at most, and an answer may have max"):
        load_roles(ppo_settings(role_toys, reward_model=path, max_new_tokens=16))
    load_roles(ppo_settings(role_toys, reward_model=path))
    assert "reads 16 tokens at most, and prompt and answer may have 64 together" in caplog.text
    caplog.clear()
    load_roles(ppo_settings(role_toys, reward_model=path, max_length=16))
    assert "reads 16 tokens" not in caplog.text


def test_a_reward_model_of_another_family_scores_by_its_own_tokenizer(
    role_toys: RoleToys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Its tokens are bytes, the policy's are pieces of words.
    save_with_other_tokenizer(tmp_path / "other", "gpt2", "a", 270, seed=7)
    save_model(
        load_scalar(str(tmp_path / "other"), new_head=True, seed=8), tmp_path / "rm", card=""
    )
    reward_model = str(tmp_path / "rm")
    settings = ppo_settings(role_toys, tmp_path / "out", reward_model=reward_model, max_steps=2)
    with caplog.at_level(logging.INFO):
        roles = load_roles(settings)
    assert "another tokenizer; the critic starts from the policy" in caplog.text
    assert roles.critic is not None
    policy, critic = roles.policy.model.state_dict(), roles.critic.model.state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(policy[name], critic[name])
    alone = model_reward(load_scalar(reward_model))
    answers: tuple[Any, ...] = (["the cat", "a dog"], ["sat on the mat", "ran"], [True, False])
    assert roles.reward(*answers) == pytest.approx(alone(*answers))
    results = list(train_online("ppo", settings))
    assert len(results) == 2
    assert all(r.metrics["objective/scores_std"] > 0 for r in results)
