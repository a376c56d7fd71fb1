"""Every method trains saved models of several families, from files to a model that loads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from accord.learn.online.methods import ONLINE
from tests.learn.toys.saved import SavedToys, assert_trained, read_probe, train
from tests.lm.toys import ARCHITECTURES

# These run on every architecture; the others, which differ from one of them by their loss alone,
# on llama and one more.
ON_ALL_ARCHITECTURES = ("sft", "reward", "dpo", "ppo")
SECOND_ARCHITECTURE = {
    "ipo": "qwen3",
    "kto": "gemma",
    "orpo": "gpt2",
    "simpo": "phi",
    "grpo": "mistral",
    "rloo": "qwen3",
    "gspo": "gpt2",
    "cispo": "gemma",
    "reinforce_plus_plus": "phi",
}
FULL_TUNING = [
    *((method, architecture) for method in ON_ALL_ARCHITECTURES for architecture in ARCHITECTURES),
    *(
        (method, architecture)
        for method, second in SECOND_ARCHITECTURE.items()
        for architecture in ("llama", second)
    ),
]
WITH_LORA = [
    *(
        (method, architecture)
        for method in ON_ALL_ARCHITECTURES
        for architecture in ("llama", "gpt2")
    ),
    *((method, "llama") for method in SECOND_ARCHITECTURE),
]
LORA_OR_NOT = [(method, lora) for method in ON_ALL_ARCHITECTURES for lora in (None, {"r": 2})]
# A method's first loss where the policy is its own reference: −log σ(0), λ·σ(0) with the two labels
# of equal weight, and (0 − 1/(2β))² for β = 0.1.
LOSS_AT_THE_REFERENCE = {"dpo": math.log(2), "kto": 0.5, "ipo": 25.0}


def assert_starts_at_the_reference(method: str, metrics: dict[str, float]) -> None:
    if method in LOSS_AT_THE_REFERENCE:
        assert metrics["loss"] == pytest.approx(LOSS_AT_THE_REFERENCE[method], rel=1e-4)
    if method in ONLINE:
        assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
        assert metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("method", "architecture"), FULL_TUNING)
def test_a_step_of_full_tuning(
    method: str, architecture: str, toys: SavedToys, tmp_path: Path
) -> None:
    settings = toys.settings(method, architecture, tmp_path)
    results = train(method, settings)
    assert_trained(method, settings, results)
    assert_starts_at_the_reference(method, results[0].metrics)


@pytest.mark.parametrize(("method", "architecture"), WITH_LORA)
def test_a_step_of_lora(method: str, architecture: str, toys: SavedToys, tmp_path: Path) -> None:
    settings = toys.settings(method, architecture, tmp_path, lora={"r": 2})
    results = train(method, settings)
    assert_trained(method, settings, results)
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()
    assert_starts_at_the_reference(method, results[0].metrics)


@pytest.mark.parametrize(
    ("method", "lora"), [*LORA_OR_NOT, *((method, None) for method in SECOND_ARCHITECTURE)]
)
def test_a_step_in_bf16(
    method: str, lora: dict[str, int] | None, toys: SavedToys, tmp_path: Path
) -> None:
    settings = toys.settings(method, "llama", tmp_path, precision="bf16", lora=lora)
    assert_trained(method, settings, train(method, settings))


@pytest.mark.parametrize(("method", "lora"), [*LORA_OR_NOT, ("kto", {"r": 2})])
def test_gradient_checkpointing_changes_no_metric(
    method: str, lora: dict[str, int] | None, toys: SavedToys, tmp_path: Path
) -> None:
    plain = train(method, toys.settings(method, "llama", tmp_path / "plain", lora=lora))
    settings = toys.settings(
        method, "llama", tmp_path / "checkpointed", lora=lora, gradient_checkpointing=True
    )
    checkpointed = train(method, settings)
    assert_trained(method, settings, checkpointed)
    for key, value in plain[0].metrics.items():
        # At the reference all margins are 0, and rounding decides which count as right.
        if key not in ("seconds", "rewards/accuracies"):
            assert checkpointed[0].metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_adapters_are_trained_from_sft_to_a_reward_model_to_ppo(
    toys: SavedToys, tmp_path: Path
) -> None:
    # SFT, a reward model and PPO on it, each an adapter that starts from the SFT adapter.
    lora = {"r": 2}
    train("sft", toys.settings("sft", "llama", tmp_path / "sft", lora=lora))
    sft = str(tmp_path / "sft" / "model")
    train("reward", toys.settings("reward", "llama", tmp_path / "rm", model=sft, lora=lora))
    settings = toys.settings(
        "ppo",
        "llama",
        tmp_path / "ppo",
        model=sft,
        reward_model=str(tmp_path / "rm" / "model"),
        lora=lora,
        max_steps=2,
        learning_rate=1e-3,
    )
    first, second = train("ppo", settings)
    assert first.metrics["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert second.metrics["val/ratio"] == pytest.approx(1.0, abs=1e-4)
    # What is saved is the SFT model moved a little, not the base with a second adapter alone.
    start, trained = read_probe("ppo", sft), read_probe("ppo", str(tmp_path / "ppo" / "model"))
    base = read_probe("ppo", toys.model("llama"))
    assert float((trained - start).abs().mean()) < 0.3 * float((base - start).abs().mean())
