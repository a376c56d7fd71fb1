"""Training that goes on with an adapter: what its reference is, and who shares its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.compare.dataset import load_records
from accord.errors import SettingsError
from accord.learn.offline.train import train_offline
from accord.learn.online.roles import load_roles
from accord.learn.online.train import train_online
from accord.lm.forward import response_logps, token_values
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.packing import pack
from accord.lm.tokens.encode import Limits, encode
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import DpoSettings
from accord.settings.training import RewardSettings
from tests.learn.test_learning import write_pairs
from tests.lm.toys import random_groups, save_toy, toy_tokenizer, with_adapters

BATCH = pack(random_groups([(5, (3,)), (2, (4,)), (7, (6,))], len(toy_tokenizer())))
ON = {"continue_adapter": True}
BETA = 0.5


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter on it (`start`), pairs and prompts."""
    root = tmp_path_factory.mktemp("continue")
    base = save_toy(root / "base")
    save_model(with_adapters(load_causal(base), seed=1), root / "start", card="")
    write_pairs(root / "pairs.jsonl", 16, seed=0)
    (root / "prompts.jsonl").write_text('{"prompt": "the cat"}\n{"prompt": "a dog"}\n')
    return root


def dpo(toys: Path, output: Path, **more: Any) -> DpoSettings:
    return DpoSettings(
        **{
            "model": str(toys / "start"),
            "dataset": str(toys / "pairs.jsonl"),
            "output_dir": str(output),
            "max_steps": 4,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "beta": BETA,
            "max_length": 64,
            "lora": ON,
            "device": "cpu",
            **more,
        }
    )


def margin(toys: Path, start: str, reference: str) -> float:
    """DPO's mean margin before the first step, from two models loaded whole."""
    models = [load_causal(str(toys / name)) for name in (start, reference)]
    records, _ = load_records(str(toys / "pairs.jsonl"), "preferences")
    groups, _ = encode(records, models[0].tokenizer, Limits(64), eos_ids=models[0].eos_ids)
    total = 0.0
    with torch.no_grad():
        for group in groups:
            sums = []
            for lm in models:
                logps = response_logps(lm, pack([group])).split([len(r) for r in group.responses])
                sums.append(float(logps[0].sum() - logps[1].sum()))
            total += BETA * (sums[0] - sums[1])
    return total / len(groups)


def test_the_reference_is_the_adapter_as_it_was(toys: Path, tmp_path: Path) -> None:
    rows = [r.metrics for r in train_offline("dpo", dpo(toys, tmp_path / "out"))]
    assert abs(rows[0]["rewards/margins"]) < 1e-6  # not so against the base under it
    assert rows[-1]["rewards/margins"] > 0.5
    kept = json.loads((tmp_path / "out/model/adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == str(toys / "base")


@pytest.mark.parametrize("whole", [False, True])
def test_the_base_as_reference_is_the_adapter_off(
    whole: bool, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = margin(toys, "start", "base")
    assert abs(expected) > 1e-2
    monkeypatch.setattr("accord.learn.offline.rows.load_causal", _once(load_causal))
    settings = dpo(
        toys, tmp_path / "out", ref_model=str(toys / "base"), precompute_ref_log_probs=whole
    )
    first = next(iter(train_offline("dpo", settings))).metrics
    assert first["rewards/margins"] == pytest.approx(expected, rel=1e-3)


def _once(load: Any) -> Any:
    """Loads a model once: the base is there already, and no second one is needed."""
    calls: list[str] = []

    def loading(place: str, **more: Any) -> Any:
        calls.append(place)
        assert len(calls) == 1, calls
        return load(place, **more)

    return loading


def test_another_adapter_is_a_reference_of_its_own(toys: Path, tmp_path: Path) -> None:
    other = with_adapters(load_causal(str(toys / "base")), seed=7)
    save_model(other, tmp_path / "other", card="")
    settings = dpo(toys, tmp_path / "out", ref_model=str(tmp_path / "other"))
    first = next(iter(train_offline("dpo", settings))).metrics
    expected = margin(toys, "start", str(tmp_path / "other"))
    assert first["rewards/margins"] == pytest.approx(expected, rel=1e-3)


def test_a_reference_that_learns_can_not_be_asked_along_the_way(toys: Path, tmp_path: Path) -> None:
    settings = dpo(toys, tmp_path / "out", precompute_ref_log_probs=False)
    with pytest.raises(SettingsError, match=r"training changes it\. Leave it out"):
        next(iter(train_offline("dpo", settings)))


def test_a_whole_model_is_given_an_adapter(toys: Path, tmp_path: Path) -> None:
    settings = dpo(toys, tmp_path / "out", model=str(toys / "base"), lora={"r": 4, **ON})
    for _ in train_offline("dpo", settings):
        pass
    assert json.loads((tmp_path / "out/model/adapter_config.json").read_text())["r"] == 4


def ppo(toys: Path, output: Path | str, **more: Any) -> PpoSettings:
    return PpoSettings(
        **{
            "model": str(toys / "start"),
            "rewards": [{"kind": "length", "at_least": 3}],
            "dataset": str(toys / "prompts.jsonl"),
            "output_dir": str(output),
            "per_device_train_batch_size": 4,
            "max_new_tokens": 5,
            "num_ppo_epochs": 1,
            "learning_rate": 1e-2,
            "max_length": 64,
            "max_steps": 3,
            "lora": ON,
            "device": "cpu",
            **more,
        }
    )


@torch.no_grad()
def logps(lm: Any) -> Tensor:
    return response_logps(lm, BATCH)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ppo_pulls_towards_the_adapter_as_it_was(
    precision: str, toys: Path, tmp_path: Path
) -> None:
    rows = [r.metrics for r in train_online("ppo", ppo(toys, tmp_path, precision=precision))]
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert abs(rows[-1]["objective/kl"]) > 1e-4
    start = logps(load_causal(str(toys / "start")))
    assert float((logps(load_causal(str(tmp_path / "model"))) - start).abs().max()) > 1e-4
    assert (tmp_path / "model/adapter_config.json").is_file()


def test_the_roles_of_a_policy_that_goes_on(toys: Path) -> None:
    roles = load_roles(ppo(toys, "nowhere"))
    assert roles.critic is not None
    assert roles.reference is not None
    assert roles.reference.model is roles.critic.model is roles.policy.model
    start = logps(load_causal(str(toys / "start")))
    for lm in (roles.policy, roles.reference):
        torch.testing.assert_close(logps(lm), start, rtol=0, atol=1e-4)
    # The critic begins with the policy's matrices, so it reads the same states; but as a copy.
    named = dict(roles.policy.model.named_parameters())
    own = {n: p for n, p in roles.critic.trainable_parameters().items() if ".critic." in n}
    assert len(own) == len(roles.policy.trainable_parameters())
    for name, parameter in own.items():
        assert torch.equal(parameter, named[name.replace(".critic.", ".default.")])
    before = token_values(roles.critic, BATCH)
    with torch.no_grad():
        for parameter in roles.policy.trainable_parameters().values():
            parameter.mul_(2)
    assert torch.equal(token_values(roles.critic, BATCH), before)
    torch.testing.assert_close(logps(roles.reference), start, rtol=0, atol=1e-4)
    base = load_roles(ppo(toys, "nowhere", ref_model=str(toys / "base"))).reference
    assert base is not None
    torch.testing.assert_close(logps(base), logps(load_causal(str(toys / "base"))))


def test_after_sft_with_adapters_all_roles_are_on_one_base(toys: Path, tmp_path: Path) -> None:
    # The reward model goes on with the policy's adapter, so it is one on the same base.
    reward = RewardSettings(
        model=str(toys / "start"),
        dataset=str(toys / "pairs.jsonl"),
        output_dir=str(tmp_path / "rm"),
        max_steps=2,
        max_length=64,
        learning_rate=1e-3,
        lora=ON,
        device="cpu",
    )
    for _ in train_offline("reward", reward):
        pass
    place = str(tmp_path / "rm/model")
    roles = load_roles(ppo(toys, "nowhere", rewards=None, reward_model=place))
    (scorer,) = roles.reward.models
    assert scorer.model is roles.policy.model
    alone = token_values(load_scalar(place), BATCH)
    assert roles.critic is not None
    torch.testing.assert_close(token_values(roles.critic, BATCH), alone, rtol=0, atol=1e-4)
    rows = [
        r.metrics
        for r in train_online("ppo", ppo(toys, tmp_path, rewards=None, reward_model=place))
    ]
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
