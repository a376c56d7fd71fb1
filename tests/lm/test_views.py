"""Several roles on one base: each uses its adapter, and none changes the numbers of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from torch import Tensor

from accord.lm.adapters.lora import add_adapters
from accord.lm.adapters.switch import adapter_name
from accord.lm.adapters.views import (
    base_view,
    critic_from_reward,
    critic_view,
    head_view,
    reward_view,
    why_not_shared,
)
from accord.lm.checks import check_packing
from accord.lm.forward import (
    response_logps,
    response_scores,
    response_stats,
    share_forward_pass,
    token_values,
)
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel, disable_dropout
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import LoraSettings
from tests.lm.models import CONFIGS, VOCABULARY, causal
from tests.lm.test_load import plain_logps
from tests.lm.toys import random_groups, save_toy, toy_tokenizer, with_adapters

LORA = LoraSettings(r=2)
SHAPES = [(5, (3, 9)), (2, (4,)), (7, (1, 6, 2))]
BATCH = pack(random_groups(SHAPES, VOCABULARY))
GROUPS = random_groups(SHAPES, len(toy_tokenizer()))
ENDED = pack([PromptGroup(g.prompt, tuple((*r, 2) for r in g.responses), g.ranks) for g in GROUPS])


def perturbed(lm: LanguageModel, seed: int) -> LanguageModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.trainable_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lm


def policy_and_critic(name: str) -> tuple[LanguageModel, LanguageModel]:
    lm = LanguageModel(disable_dropout(causal(name)), None, name)
    check_packing(lm)
    policy = with_adapters(lm, seed=0)
    return policy, perturbed(critic_view(policy, LORA, seed=1), 1)


def weighted(values: Tensor) -> Tensor:
    """A loss with a different derivative to each value."""
    return (values.float() * torch.linspace(-1, 1.5, values.numel())).sum()


def take_gradients(*models: LanguageModel) -> dict[str, Tensor]:
    actual = {}
    for lm in models:
        for name, parameter in lm.trainable_parameters().items():
            assert parameter.grad is not None, name
            actual[name] = parameter.grad.clone()
            parameter.grad = None
    return actual


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, gradient in actual.items():
        size = float(expected[name].norm())
        assert float((gradient - expected[name]).norm()) <= 1e-4 * size + 1e-7, name


@pytest.mark.parametrize("name", CONFIGS)
def test_each_role_has_separate_numbers_and_parameters(name: str) -> None:
    alone = LanguageModel(causal(name), None, name)
    check_packing(alone)
    with torch.no_grad():
        base = response_logps(alone, BATCH)
    base_pointers = {p.data_ptr() for p in alone.model.parameters()}
    policy = with_adapters(alone, seed=0)
    with torch.no_grad():
        before = response_logps(policy, BATCH)
    critic = critic_view(policy, LORA, seed=1)
    reference = base_view(policy)
    with torch.no_grad():
        untouched = token_values(critic, BATCH)
        perturbed(critic, 1)
        values = token_values(critic, BATCH)
        assert float((values - untouched).abs().max()) > 1e-3
        # Equal to the bit, whatever adapters are on the base and were used before.
        assert torch.equal(response_logps(policy, BATCH), before)
        assert torch.equal(response_logps(reference, BATCH), base)
        perturbed(policy, 2)
        assert float((response_logps(policy, BATCH) - before).abs().max()) > 1e-3
        assert torch.equal(token_values(critic, BATCH), values)
        assert torch.equal(response_logps(reference, BATCH), base)
    frozen = [
        p for lm in (policy, critic) for p in lm.view_parameters().values() if not p.requires_grad
    ]
    assert {p.data_ptr() for p in frozen} == base_pointers  # one base in memory for both
    assert not set(policy.trainable_parameters()) & set(critic.trainable_parameters())
    assert {adapter_name(n) for n in policy.trainable_parameters()} == {"default"}
    assert {adapter_name(n) for n in critic.trainable_parameters()} == {"critic", None}
    assert {n for n in critic.trainable_parameters() if adapter_name(n) is None} == {
        "score.weight",
        "score.bias",
    }
    assert reference.trainable_parameters() == {}


@pytest.mark.parametrize("name", CONFIGS)
def test_recomputation_uses_the_adapter_of_its_forward_pass(name: str) -> None:
    actual = []
    for checkpointed in (False, True):
        policy, critic = policy_and_critic(name)
        if checkpointed:
            policy.enable_gradient_checkpointing()
        # Both forward passes precede the backward pass, when the policy's adapter is active again.
        logps, values = response_logps(policy, BATCH), token_values(critic, BATCH)
        assert not set(policy.trainable_parameters()) & set(critic.trainable_parameters())
        (weighted(logps) + weighted(values)).backward()
        actual.append(take_gradients(policy, critic))
        assert policy.switch is not None
        assert policy.switch.adapter == "default"
        assert all(p.grad is None for p in policy.model.parameters())
    assert_same_gradients(actual[1], actual[0])


def test_after_an_error_in_a_pass_the_policy_is_active() -> None:
    policy, critic = policy_and_critic("llama")
    expected = response_logps(policy, BATCH)
    assert policy.switch is not None

    def fail() -> None:
        assert policy.switch is not None
        with critic.precision_context():
            assert policy.switch.adapter == "critic"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert policy.switch.adapter == "default"
    plain = policy.inner(input_ids=torch.tensor([[5, 6, 7]])).logits  # outside of any view
    with base_view(policy).precision_context():
        base = policy.inner(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert float((plain - base).abs().max()) > 1e-3
    torch.testing.assert_close(response_logps(policy, BATCH), expected)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("policy_grad", [False, True])
def test_a_shared_pass_gives_the_gradients_of_two(lora: bool, policy_grad: bool) -> None:
    policy = LanguageModel(causal("llama"), None, "llama")
    check_packing(policy)
    if lora:
        policy = with_adapters(policy, seed=0)
    critic = head_view(policy, seed=3)
    assert share_forward_pass(policy, critic)
    assert critic.score is not None
    assert set(critic.trainable_parameters()) == {"score.weight", "score.bias"}
    assert float(critic.score.bias) == 0.0
    assert 0.6 < float(critic.score.weight.detach().std()) * 33**0.5 < 1.4

    stats = response_stats(policy, BATCH, temperature=0.7, critic=critic, policy_grad=policy_grad)
    assert stats.entropy is None
    assert stats.values is not None
    actual = stats.logps, stats.values
    passes = count_passes(policy, lambda: response_stats(policy, BATCH, critic=critic))
    assert passes == 1
    expected = response_logps(policy, BATCH, temperature=0.7), token_values(critic, BATCH)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    more = response_stats(policy, BATCH, want={"entropy"}, temperature=0.7, critic=critic)
    assert more.entropy is not None
    assert bool((more.entropy > 0).all())
    torch.testing.assert_close(more.logps, expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(more.values, expected[1], rtol=0, atol=1e-6)

    if not policy_grad:  # the head alone, though the policy has trainable parameters
        weighted(actual[1]).backward()
        assert not actual[0].requires_grad
        assert all(p.grad is None for p in policy.trainable_parameters().values())
        assert set(take_gradients(critic)) == {"score.weight", "score.bias"}
        return
    (weighted(actual[0]) + 0.3 * weighted(actual[1])).backward()
    shared = take_gradients(policy, critic)
    weighted(expected[0]).backward()
    (0.3 * weighted(expected[1])).backward()
    assert_same_gradients(shared, take_gradients(policy, critic))


def test_an_adapter_critic_shares_no_pass() -> None:
    policy, critic = policy_and_critic("llama")
    assert not share_forward_pass(policy, critic)


def count_passes(lm: LanguageModel, compute: Any) -> int:
    count = [0]
    hook = lm.backbone.register_forward_hook(lambda *a: count.__setitem__(0, count[0] + 1))
    compute()
    hook.remove()
    return count[0]


def saved_reward(folder: Path, base: str, *, heads: int = 1) -> str:
    lm = with_adapters(load_scalar(base, new_head=True, seed=3, heads=heads), seed=5)
    lm.score_mean, lm.score_std, lm.max_prompt_length = 0.75, 2.0, 40
    if heads > 1:
        lm.head_means, lm.score_penalty = tuple(0.1 * i for i in range(heads)), 0.5
    save_model(lm, folder, card="")
    return str(folder)


@pytest.mark.parametrize(("name", "heads"), [("llama", 1), ("llama", 3), ("gpt2", 1), ("phi", 1)])
@torch.no_grad()
def test_a_shared_reward_model_scores_as_a_separate_one(
    name: str, heads: int, tmp_path: Path
) -> None:
    base = save_toy(tmp_path / "toy", name)
    path = saved_reward(tmp_path / "rm", base, heads=heads)
    policy = with_adapters(load_causal(base), seed=0)
    before = response_logps(policy, ENDED)
    assert why_not_shared(policy, path) is None
    view, alone = reward_view(policy, path), load_scalar(path)
    torch.testing.assert_close(
        response_scores(view, ENDED), response_scores(alone, ENDED), rtol=0, atol=1e-4
    )
    for field in ("score_mean", "score_std", "head_means", "score_penalty", "heads"):
        assert getattr(view, field) == getattr(alone, field), field
    assert (view.max_length, view.max_prompt_length) == (alone.max_length, 40)
    assert torch.equal(response_logps(policy, ENDED), before)
    assert view.trainable_parameters() == {}
    assert policy.trainable_parameters() != {}

    critic = critic_from_reward(view)
    assert critic.heads == 1
    view_scores = response_scores(view, ENDED)
    first = (token_values(critic, ENDED) * critic.score_std + critic.score_mean)[:1]
    separate = load_scalar(path)
    if heads == 1:
        torch.testing.assert_close(
            token_values(critic, ENDED), token_values(separate, ENDED), rtol=0, atol=1e-4
        )
    else:  # the first head, about its own mean
        assert critic.score_mean == 0.0
        torch.testing.assert_close(
            first[0], separate.head_scores(states(separate))[0, 0], rtol=0, atol=1e-4
        )
    perturbed(critic, 4)
    assert torch.equal(response_scores(view, ENDED), view_scores)  # the critic has a copy


def states(lm: LanguageModel) -> Tensor:
    from accord.lm.forward import states_before

    return states_before(lm, ENDED)


def test_why_a_reward_model_is_loaded_separately(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "toy")
    path = saved_reward(tmp_path / "rm", base)
    policy = with_adapters(load_causal(base), seed=0)
    assert why_not_shared(policy, base) == "it is a full model"

    # The same weights in another folder are the same base; others are not.
    shutil.copytree(base, tmp_path / "copied")
    copied = add_adapters(load_causal(str(tmp_path / "copied")), LORA, seed=0)
    assert why_not_shared(copied, path) is None
    different = add_adapters(load_causal(save_toy(tmp_path / "other", seed=4)), LORA, seed=0)
    assert "is not the policy's" in (why_not_shared(different, path) or "")
    bf16 = add_adapters(load_causal(str(tmp_path / "copied"), precision="bf16"), LORA, seed=0)
    assert why_not_shared(bf16, path) is None  # equal in bf16

    # A merged adapter changes the base; a reward model trained on the result shares that base.
    save_model(policy, tmp_path / "sft", card="")
    merged = add_adapters(load_causal(str(tmp_path / "sft")), LORA, seed=1)
    assert "merged into it" in (why_not_shared(merged, path) or "")
    save_model(load_causal(str(tmp_path / "sft")), tmp_path / "whole", card="")
    on_whole = saved_reward(tmp_path / "on-whole", str(tmp_path / "whole"))
    assert why_not_shared(merged, on_whole) is None

    # A configuration that computes differently with the same weights.
    config = json.loads((tmp_path / "copied" / "config.json").read_text())
    config["rms_norm_eps"] = 0.1
    (tmp_path / "copied" / "config.json").write_text(json.dumps(config))
    changed = add_adapters(load_causal(str(tmp_path / "copied")), LORA, seed=0)
    assert "is not the policy's" in (why_not_shared(changed, path) or "")

    for key, value, reason in (
        ("peft_type", "IA3", "and not LoRA"),
        ("bias", "all", "more than LoRA's matrices"),
        ("modules_to_save", ["score", "embed_tokens"], "more than LoRA's matrices"),
    ):
        shutil.copytree(path, tmp_path / key)
        config_file = tmp_path / key / "adapter_config.json"
        config_file.write_text(json.dumps({**json.loads(config_file.read_text()), key: value}))
        assert reason in (why_not_shared(policy, str(tmp_path / key)) or ""), key


def test_only_the_policys_adapter_is_saved(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "toy")
    policy = with_adapters(load_causal(base), seed=0)
    view = reward_view(policy, saved_reward(tmp_path / "rm", base))
    perturbed(critic_from_reward(view), 2)
    with torch.no_grad():
        expected = response_logps(policy, ENDED)
    save_model(policy, tmp_path / "saved", card="")
    assert not any(p.is_dir() for p in (tmp_path / "saved").iterdir())
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        actual = plain_logps(model, toy_tokenizer(), ENDED.groups)
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=1e-4)


def test_saving_on_a_merged_base_merges_the_policy_alone(tmp_path: Path) -> None:
    save_model(with_adapters(load_causal(save_toy(tmp_path / "toy")), 0), tmp_path / "sft", card="")
    policy = with_adapters(load_causal(str(tmp_path / "sft")), seed=1)
    perturbed(critic_view(policy, LORA, seed=1), 2)
    with torch.no_grad():
        expected = response_logps(policy, ENDED)
        save_model(policy, tmp_path / "whole", card="")
        again = load_causal(str(tmp_path / "whole"))
        torch.testing.assert_close(response_logps(again, ENDED), expected, rtol=0, atol=1e-4)
