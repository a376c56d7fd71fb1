"""A setting without effect beside the others is refused, unless it has its default."""

from __future__ import annotations

from typing import Any

import pytest

from accord.errors import SettingsError
from accord.settings.base import Settings
from accord.settings.groups import GrpoSettings
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import DpoSettings
from accord.settings.reading.load import apply_overrides, build
from accord.settings.reading.located import LocatedMapping
from accord.settings.stages import CompareSettings, EvaluateSettings, SampleSettings, SelectSettings
from accord.settings.training import RewardSettings, SftSettings

TRAIN = {"model": "m", "dataset": "d", "output_dir": "o"}
ONLINE = {**TRAIN, "reward_model": "r"}
COMPARE = {"responses": ["r.jsonl"], "output_dir": "o"}
SELECT = {"responses": "r", "output_dir": "o", "model_name": "best"}
ANSWER = {**SELECT, "rewards": [{"kind": "answer", "compare": "number"}]}
MODELS = {**SELECT, "rewards": [{"kind": "reward_model", "model": ["r", "s"]}]}
EVALUATE = {"contestants": [], "output_dir": "o", "reference": "m"}
ADDRESS = "http://127.0.0.1:8000"


def built(settings_class: type[Settings], values: dict[str, Any]) -> Settings:
    return build(settings_class, LocatedMapping(values), where="x")


# Settings as on the command line: the last one does nothing until the fourth item is added.
VLLM = f"sampler.kind=vllm sampler.url={ADDRESS}"
JUDGE = "judge.kind=reward_model judge.model=r"
CASES: list[tuple[type[Settings], dict[str, Any], str, str]] = [
    (PpoSettings, ONLINE, "adaptive_kl_horizon=99", "adaptive_kl_target=6"),
    (SampleSettings, TRAIN, f"sampler.url={ADDRESS}", VLLM),
    (SampleSettings, TRAIN, "sampler.model=m", VLLM),
    (SampleSettings, TRAIN, "sampler.timeout=9", VLLM),
    (SampleSettings, TRAIN, "sampler.retries=0", VLLM),
    (SampleSettings, TRAIN, "sampler.api_key_env=KEY", VLLM),
    (GrpoSettings, ONLINE, "sampler_importance_cap=3", f"{VLLM} lora=on"),
    (GrpoSettings, ONLINE, "beta=0 use_bias_correction_kl=false", "beta=0.1"),
    (PpoSettings, ONLINE, "beta=0 ref_model=f", "max_kl=5"),
    (PpoSettings, ONLINE, "vf_coef=0 gae_lambda=1 cliprange_value=0.3", "vf_coef=0.1"),
    (PpoSettings, ONLINE, "ptx_coef=3", "ptx_dataset=d"),
    (PpoSettings, ONLINE, "long_responses=cut", "ptx_dataset=d"),
    (GrpoSettings, ONLINE, "long_responses=cut", "long_responses=drop"),
    (DpoSettings, TRAIN, "discopop_tau=0.1", "loss_type=discopop"),
    (DpoSettings, TRAIN, "f_alpha_divergence_coef=0.3", "f_divergence_type=alpha_divergence"),
    (SftSettings, TRAIN, "eval_steps=5", "eval_dataset=e"),
    (RewardSettings, TRAIN, "bootstrap=false", "heads=2"),
    (SampleSettings, TRAIN, "temperature=0 top_p=0.9", "temperature=1"),
    (SampleSettings, TRAIN, "temperature=0 top_k=5", "temperature=1"),
    (SampleSettings, TRAIN, "temperature=0 min_p=0.1", "temperature=1"),
    (CompareSettings, COMPARE, "judge.model=m", "judge.kind=reward_model"),
    (CompareSettings, COMPARE, f"{JUDGE} judge.noise=0.5", "judge.kind=world judge.model=null"),
    (
        CompareSettings,
        COMPARE,
        f"{JUDGE} judge.flaws.length=1",
        "judge.kind=world judge.model=null",
    ),
    (EvaluateSettings, EVALUATE, "comparisons=c", "reward_model=r"),
    (EvaluateSettings, EVALUATE, "clear_gap=0.5", "comparisons=c reward_model=r"),
    (SelectSettings, ANSWER, "rewards.0.case_sensitive=true", "rewards.0.compare=exact"),
    (
        SelectSettings,
        MODELS,
        "rewards.0.variance_penalty=1",
        "rewards.0.combine=mean_minus_variance",
    ),
]


@pytest.mark.parametrize(("settings_class", "values", "overrides", "needed"), CASES)
def test_a_key_without_effect_is_refused(
    settings_class: type[Settings], values: dict[str, Any], overrides: str, needed: str
) -> None:
    path = overrides.split()[-1].partition("=")[0].split(".")
    key = "|".join(path)  # a validator of a table names the key in it
    refused = apply_overrides(LocatedMapping(values), overrides.split())
    with pytest.raises(SettingsError, match=f"`({key})(=false)?`"):
        build(settings_class, refused, where="x")
    build(settings_class, apply_overrides(refused, needed.split()), where="x")


@pytest.mark.parametrize(
    ("settings_class", "values"),
    [
        (PpoSettings, ONLINE),
        (PpoSettings, {**ONLINE, "missing_eos_score": -1.0}),
        (PpoSettings, {**TRAIN, "rewards": [{"kind": "reward_model", "model": "r"}]}),
        (PpoSettings, {**ONLINE, "vf_coef": 0, "gae_lambda": 1}),
        (GrpoSettings, {**ONLINE, "beta": 0}),
        (DpoSettings, TRAIN),
        (SftSettings, TRAIN),
        (RewardSettings, TRAIN),
        (SampleSettings, {**TRAIN, "temperature": 0}),
        (CompareSettings, {**COMPARE, "judge": {"kind": "reward_model", "model": "m"}}),
        (EvaluateSettings, EVALUATE),
    ],
)
def test_saved_settings_are_accepted_again(
    settings_class: type[Settings], values: dict[str, Any]
) -> None:
    # A run saves every key, those with their defaults too.
    settings = built(settings_class, values)
    saved = settings.model_dump(mode="json")
    assert settings_class.model_validate(saved) == settings
    assert built(settings_class, saved) == settings
