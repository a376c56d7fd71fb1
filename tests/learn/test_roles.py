"""The roles of online learning as they are loaded: what they share, start at, and hold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from accord.compare.rewards.models import model_reward
from accord.errors import SettingsError
from accord.learn.loop.checkpoints import FOLDER as CHECKPOINTS
from accord.learn.loop.learner import Learner, make_learner
from accord.learn.online import roles as roles_module
from accord.learn.online.memory import RoleMemory, memory_plan, memory_report
from accord.learn.online.roles import Roles, load_roles
from accord.learn.online.saved_episodes import FOLDER as EPISODES
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, share_forward_pass, token_values
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, pack
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.records import Prompt
from accord.settings.ppo import PpoSettings
from tests.lm.test_load import plain_logps
from tests.lm.toys import ARCHITECTURES, random_groups, save_toy, toy_tokenizer, with_adapters

GROUPS = random_groups([(5, (3,)), (2, (4,)), (7, (6,))], len(toy_tokenizer()))
PROMPTS = '{"prompt": "the cat"}\n{"prompt": "a dog"}\n{"prompt": "yes"}\n'
LORA = {"r": 2}
KINDS: list[tuple[str | None, dict[str, int] | None]] = [
    (None, LORA),
    ("separate", LORA),
    ("shared", LORA),
    (None, None),
    ("shared", None),
]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a reward model that is an adapter on it (`rm`), one that is whole (`full`)."""
    root = tmp_path_factory.mktemp("roles")
    base = save_toy(root / "base")
    reward = with_adapters(load_scalar(base, seed=3), seed=5)
    reward.score_mean, reward.score_std = 0.75, 2.0
    save_model(reward, root / "rm", card="")
    save_model(load_scalar(base, seed=4), root / "full", card="")
    (root / "prompts.jsonl").write_text(PROMPTS)
    return root


def settings_of(toys: Path, output: Path | str = "nowhere", **more: Any) -> PpoSettings:
    return PpoSettings(
        **{
            "model": str(toys / "base"),
            "reward_model": str(toys / "rm"),
            "dataset": str(toys / "prompts.jsonl"),
            "output_dir": str(output),
            "per_device_train_batch_size": 4,
            "max_new_tokens": 5,
            "num_ppo_epochs": 1,
            "learning_rate": 1e-2,
            "max_length": 64,
            "device": "cpu",
            **more,
        }
    )


def loaded(settings: PpoSettings) -> tuple[Roles, dict[str, RoleMemory]]:
    """The roles, and the plan that was told of them."""
    plans: list[dict[str, RoleMemory]] = []

    def kept(models: Any) -> dict[str, RoleMemory]:
        plans.append(memory_plan(models))
        return plans[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles_module, "memory_plan", kept)
        roles = load_roles(settings)
    return roles, plans[0]


def reward_of(plan: dict[str, RoleMemory]) -> RoleMemory:
    (found,) = (memory for role, memory in plan.items() if role.startswith("reward "))
    return found


def scores(roles: Roles) -> list[float]:
    prompts: Sequence[Prompt] = ["the cat", "a dog"]
    return roles.reward(prompts, ["sat on the mat", "ran"], [True, True])


def batch() -> PackedBatch:
    return pack(GROUPS)


def step(lm: LanguageModel, learner: Learner, read: Any) -> None:
    read(lm, batch()).sum().backward()
    learner.optimiser.step()
    learner.optimiser.zero_grad(set_to_none=True)
    learner.sync_copies()


def test_under_lora_all_roles_are_on_one_base(toys: Path) -> None:
    roles, plan = loaded(settings_of(toys, lora=LORA))
    assert roles.critic is not None
    assert roles.reference is not None
    assert roles.critic.model is roles.policy.model
    assert roles.reference.model is roles.policy.model
    assert not share_forward_pass(roles.policy, roles.critic)
    base = sum(p.nbytes for p in load_causal(str(toys / "base")).model.parameters())
    adapter = 4 * sum(p.numel() for p in roles.policy.trainable_parameters().values())
    assert plan["policy"] == RoleMemory(base + adapter, 0, adapter, 2 * adapter)
    assert plan["reference"] == RoleMemory()
    assert reward_of(plan) == RoleMemory(adapter + 4 * 32)
    own = adapter + 4 * 33
    assert plan["critic"] == RoleMemory(own, 0, own, 2 * own)


def test_the_critic_starts_at_the_reward_models_scores(toys: Path) -> None:
    alone = load_scalar(str(toys / "rm"))
    expected = token_values(alone, batch())
    for kind in ("adapter", "separate"):
        critic = load_roles(settings_of(toys, lora=LORA, critic=kind)).critic
        assert critic is not None
        torch.testing.assert_close(token_values(critic, batch()), expected, rtol=0, atol=1e-4)


def test_a_whole_reward_model_is_told_and_the_critic_starts_anew(
    toys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = settings_of(toys, lora=LORA, reward_model=str(toys / "full"))
    roles, plan = loaded(settings)
    assert "is loaded separately: it is a full model" in caplog.text
    assert "start from a new head" in caplog.text
    assert "memory of the reference, MB: none of its own" in caplog.text
    assert roles.critic is not None
    assert roles.critic.model is roles.policy.model
    reward = sum(p.nbytes for p in load_scalar(str(toys / "full")).model.parameters())
    assert reward_of(plan) == RoleMemory(reward)
    # Adapters that do nothing yet: the values are the new head's on the base's states.
    assert roles.critic.score is not None
    states = roles.reference
    assert states is not None
    from accord.lm.forward import states_before

    expected = roles.critic.score(states_before(states, batch())).squeeze(-1)
    torch.testing.assert_close(token_values(roles.critic, batch()), expected)


def test_one_reward_model_shares_the_base_and_a_second_is_by_itself(
    toys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both = [{"kind": "reward_model", "name": n, "model": str(toys / "rm")} for n in ("a", "b")]
    roles, plan = loaded(settings_of(toys, lora=LORA, reward_model=None, rewards=both))
    assert "another reward model is on the policy's base already" in caplog.text
    first, second = (memory for role, memory in plan.items() if role.startswith("reward "))
    assert 0 < first.weights < second.weights
    one = load_roles(settings_of(toys, lora=LORA))
    torch.testing.assert_close(
        torch.tensor(scores(roles)), 2 * torch.tensor(scores(one)), rtol=1e-4, atol=1e-5
    )


def test_a_method_may_go_without_critic_or_reference(toys: Path) -> None:
    roles = load_roles(settings_of(toys, lora=LORA, vf_coef=0, gae_lambda=1, beta=0))
    assert roles.critic is None
    assert roles.reference is None
    names = [n for n, _ in roles.policy.model.named_parameters()]
    assert not any(".critic." in n for n in names)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("critic", "lora"), KINDS)
def test_the_plan_is_of_the_tensors_that_learning_holds(
    critic: str | None, lora: dict[str, int] | None, precision: str, toys: Path
) -> None:
    settings = settings_of(toys, critic=critic, lora=lora, precision=precision)
    roles, plan = loaded(settings)
    assert roles.critic is not None
    learners = {
        "policy": make_learner(roles.policy, settings),
        "critic": make_learner(roles.critic, settings),
    }
    for name, lm, read in (
        ("policy", roles.policy, response_logps),
        ("critic", roles.critic, token_values),
    ):
        read(lm, batch()).sum().backward()
        learner = learners[name]
        assert all(p.grad is not None for p in learner.parameters.values()), name
        learner.optimiser.step()
        states = [v for s in learner.optimiser.state.values() for k, v in s.items() if k != "step"]
        masters = [p for n, p in learner.parameters.items() if n in learner.copies]
        found = RoleMemory(
            plan[name].weights,
            sum(p.nbytes for p in masters),
            sum(p.grad.nbytes for p in learner.parameters.values() if p.grad is not None),
            sum(v.nbytes for v in states),
        )
        assert found == plan[name], name
    places = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for lm in (roles.policy, roles.critic, roles.reference)
        if lm is not None
        for p in lm.view_parameters().values()
    }
    held = sum(plan[name].weights for name in ("policy", "critic", "reference"))
    assert held == sum(places.values())
    assert memory_report(plan)[-1].startswith("memory of all roles, MB: ")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_one_role_moves_no_other(precision: str, toys: Path) -> None:
    settings = settings_of(toys, lora=LORA, precision=precision)
    roles = load_roles(settings)
    assert roles.critic is not None
    assert roles.reference is not None
    policy = make_learner(roles.policy, settings)
    critic = make_learner(roles.critic, settings)

    def numbers() -> list[Any]:
        assert roles.critic is not None
        assert roles.reference is not None
        with torch.no_grad():
            return [
                response_logps(roles.policy, batch()).tolist(),
                token_values(roles.critic, batch()).tolist(),
                response_logps(roles.reference, batch()).tolist(),
                scores(roles),
            ]

    start = numbers()
    step(roles.policy, policy, response_logps)
    after_policy = numbers()
    assert [a == b for a, b in zip(start, after_policy, strict=True)] == [False, True, True, True]
    step(roles.critic, critic, token_values)
    after = numbers()
    assert [a == b for a, b in zip(after_policy, after, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("critic", "lora"), KINDS)
def test_ppo_goes_on_from_a_checkpoint_to_the_bit(
    critic: str | None, lora: dict[str, int] | None, checkpointed: bool, toys: Path, tmp_path: Path
) -> None:
    if checkpointed and critic == "separate":
        return  # nothing that the other cases do not have
    more = {"critic": critic, "lora": lora, "gradient_checkpointing": checkpointed, "max_steps": 3}
    straight = list(train_online("ppo", settings_of(toys, tmp_path / "a", **more)))
    assert straight[0].metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    assert straight[0].metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert straight[0].metrics["grad_norm/critic"] > 0
    steps = train_online("ppo", settings_of(toys, tmp_path / "b", **more))
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    rest = list(train_online("ppo", settings_of(toys, tmp_path / "b", **more)))
    assert [r.step for r in rest] == [2, 3]
    for a, b in zip(straight[1:], rest, strict=True):
        for name, value in a.metrics.items():
            assert name == "seconds" or b.metrics[name] == value, name
    folders = [tmp_path / name / "model" for name in "ab"]
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    with torch.no_grad():
        expected = response_logps(load_causal(str(folders[0])), batch()).double()
        if lora is not None:
            plain = AutoPeftModelForCausalLM.from_pretrained(folders[0]).eval()
            found = plain_logps(plain, toy_tokenizer(), GROUPS)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        start = response_logps(load_causal(str(toys / "base")), batch()).double()
    assert float((expected - start).abs().max()) > 1e-4


def test_a_run_killed_as_it_cleans_up_leaves_no_episodes(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Episodes without their checkpoints would be taken for another run's.
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    settings = settings_of(toys, tmp_path, max_steps=2, save_steps=1)
    monkeypatch.setattr("accord.learn.online.train.remove_checkpoints", killed)
    with pytest.raises(KeyboardInterrupt):
        list(train_online("ppo", settings))
    assert (tmp_path / CHECKPOINTS).is_dir()
    assert not (tmp_path / EPISODES).exists()
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.undo()
    list(train_online("ppo", settings))
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / CHECKPOINTS).exists()


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_shared_critic_warms_up_by_its_head_alone(
    lora: dict[str, int] | None, toys: Path, tmp_path: Path
) -> None:
    settings = settings_of(
        toys, tmp_path, critic="shared", lora=lora, critic_warmup_steps=2, max_steps=2
    )
    results = list(train_online("ppo", settings))
    assert all("grad_norm/policy" not in r.metrics for r in results)
    assert all(r.metrics["grad_norm/critic"] > 0 for r in results)
    with torch.no_grad():
        start = response_logps(load_causal(settings.model), batch())
        end = response_logps(load_causal(str(tmp_path / "model")), batch())
    torch.testing.assert_close(start, end, rtol=0, atol=1e-6)


def test_an_adapter_critic_needs_lora(toys: Path) -> None:
    with pytest.raises(ValueError, match="`critic=adapter` is LoRA on the policy's base"):
        settings_of(toys, critic="adapter")


def test_a_reward_model_that_can_not_read_whole_answers_is_refused_or_told(
    toys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = load_scalar(str(toys / "full"))
    reader.max_length = 16
    save_model(reader, toys / "short", card="")
    place = str(toys / "short")
    with pytest.raises(SettingsError, match="reads 16 tokens at most, and an answer may have max"):
        load_roles(settings_of(toys, reward_model=place, max_new_tokens=16))
    load_roles(settings_of(toys, reward_model=place))
    assert "reads 16 tokens at most, and prompt and answer may have 64 together" in caplog.text
    caplog.clear()
    load_roles(settings_of(toys, reward_model=place, max_length=16))
    assert "reads 16 tokens" not in caplog.text


def test_a_reward_model_of_another_family_scores_by_its_own_tokens(
    toys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Its tokens are bytes, the policy's are pieces of words.
    tokenizer = train_tokenizer(["a"], 270, 128)
    model = untrained_model("gpt2", ARCHITECTURES["gpt2"], tokenizer, seed=7)
    save_untrained(model, tokenizer, tmp_path / "other")
    save_model(load_scalar(str(tmp_path / "other"), seed=8), tmp_path / "rm", card="")
    settings = settings_of(toys, tmp_path / "out", reward_model=str(tmp_path / "rm"), max_steps=2)
    with caplog.at_level(logging.INFO):
        roles = load_roles(settings)
    assert "another tokenizer; the critic starts from the policy" in caplog.text
    assert roles.critic is not None
    policy, critic = roles.policy.model.state_dict(), roles.critic.model.state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(policy[name], critic[name])
    alone = model_reward(load_scalar(str(tmp_path / "rm")))
    asked: tuple[Any, ...] = (["the cat", "a dog"], ["sat on the mat", "ran"], [True, False])
    assert roles.reward(*asked) == pytest.approx(alone(*asked))
    results = list(train_online("ppo", settings))
    assert len(results) == 2
    assert all(r.metrics["objective/scores_std"] > 0 for r in results)
