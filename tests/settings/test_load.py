"""Settings from written values: nothing is coerced, every problem is reported with its source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from accord.errors import SettingsError
from accord.settings.arena import ArenaSettings
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import DpoSettings
from accord.settings.reading.foreign import FOREIGN_METHODS, FOREIGN_VALUES
from accord.settings.reading.load import apply_overrides, build
from accord.settings.reading.yaml_lines import read_yaml
from accord.settings.stage_kinds import METHOD_SETTINGS, find_method
from accord.settings.stages import CompareSettings, ScratchSettings
from accord.settings.training import SftSettings

REQUIRED = "model: m\ndataset: d\noutput_dir: o\n"


def dpo(text: str = "", *overrides: str) -> DpoSettings:
    values = apply_overrides(read_yaml(REQUIRED + text, source="x.yaml"), overrides)
    return build(DpoSettings, values, where="train dpo")


def error_message(text: str = "", *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        dpo(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_keys_and_defaults() -> None:
    settings = dpo("learning_rate: 1e-5\nnum_train_epochs: 3\nlora: {r: 4}")
    assert settings.learning_rate == 1e-5
    assert settings.num_train_epochs == 3.0  # a whole number is a number
    assert settings.lora is not None
    assert settings.lora.r == 4
    assert settings.lora.alpha == 32.0
    assert settings.beta == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_steps: '3'",
            "train dpo: `max_steps` must be a whole number at least 1, or absent, not '3' "
            "(x.yaml:4). Write it without quotes: 3.",
        ),
        ("max_steps: true", "`max_steps` must be a whole number at least 1, or absent, not true"),
        ("max_steps: 10.0", "not 10.0 (x.yaml:4). Write 10."),
        ("max_steps: 0", "must be a whole number at least 1, or absent, not 0"),
        ("beta: yes", "`beta` must be a number greater than 0, not true"),
        ("beta: .inf", "`beta` must be a number greater than 0, not inf"),
        ("beta: .nan", "`beta` must be a number greater than 0, not nan"),
        ("label_smoothing: 0.5", "must be a number at least 0 and less than 0.5, not 0.5"),
        (
            "lr_scheduler_type: cosin",
            "`lr_scheduler_type` must be `constant`, `linear` or `cosine`, not 'cosin' "
            "(x.yaml:4). Leave it out for the default, linear.",
        ),
        ("resume: 1", "`resume` must be true or false, not 1"),
        ("eval_dataset: 7", 'Put it in quotes: "7" in a file, \'"7"\' on the command line'),
        ("eval_dataset: no", "yes, no, on and off without quotes are true and false"),
        ("lora: {r: x}", "`lora.r` must be a whole number at least 1, not 'x' (x.yaml:4)"),
        ("lora: 8", "`lora` must be a table with the keys `r`, `alpha`, `target_modules`"),
        ("lora: {target_modules: 3}", "`lora.target_modules` must be text or a list of texts"),
    ],
)
def test_wrong_values_are_reported_and_never_coerced(text: str, message: str) -> None:
    assert message in error_message(text)


def test_all_problems_are_reported_at_once() -> None:
    message = error_message("beta: x\nmax_step: 3", "seed=-1")
    assert message.startswith("train dpo: 3 problems. (1) ")
    assert "`beta` must be a number greater than 0, not 'x' (x.yaml:4)" in message
    assert "`max_step` is not a key (x.yaml:5). Did you mean `max_steps`?" in message
    seed = "`seed` must be a whole number at least 0 and less than 9223372036854775808, not -1"
    assert f"{seed} (on the command line)" in message
    assert message.index("max_step`") < message.index("beta")  # unknown keys come first


def test_a_missing_key_says_what_it_is_for() -> None:
    with pytest.raises(SettingsError) as caught:
        build(SftSettings, read_yaml("model: m\noutput_dir: o", source="x.yaml"), where="train sft")
    assert str(caught.value) == (
        "train sft: `dataset` is missing (x.yaml). Rows to learn from: a file, a folder, "
        "a hub name, or a preference store (.db). Add `dataset: …`, or dataset=… on the command "
        "line."
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("learning_rat", "Did you mean `learning_rate`?"),
        ("zebra", "The keys are `model`, `dataset`"),
        ("r", "`r` belongs to `lora`: write `lora.r=…`"),
        ("micro_batch_size", "Axolotl's `micro_batch_size` is `per_device_train_batch_size` here."),
        ("sequence_len", "Axolotl's `sequence_len` is `max_length` here."),
        ("base_model", "Axolotl's `base_model` is `model` here."),
        ("num_epochs", "Axolotl's `num_epochs` is `num_train_epochs` here."),
        ("cutoff_len", "LLaMA-Factory's `cutoff_len` is `max_length` here."),
        ("finetuning_type", "LLaMA-Factory's `finetuning_type` is `lora` here."),
        ("pretrain", "OpenRLHF's `pretrain` is `model` here."),
        ("micro_train_batch_size", "OpenRLHF's `micro_train_batch_size` is `per_device_train"),
        ("max_len", "OpenRLHF's `max_len` is `max_length` here."),
        ("init_kl_coef", "OpenRLHF's `init_kl_coef` is `beta` here."),
        ("max_steps_per_epoch", "torchtune's `max_steps_per_epoch` is `max_steps` here."),
        ("random_state", "Unsloth's `random_state` is `seed` here."),
        ("fp16", "fp16 is not offered; use `precision: bf16` or `fp32`."),
        ("reward_funcs", "TRL's `reward_funcs` is `rewards` here"),
        ("deepspeed", "Hugging Face's `deepspeed` has no counterpart here."),
        ("optimizer", "`optimizer` is `optim` here."),
        ("load_in_8bit", "TRL's `load_in_8bit` is `quantization` here."),
        ("stages", "run a recipe with `accord run FILE`."),
        ("stage", "LLaMA-Factory's `stage` is `method` here."),
        ("rl", "The method names the loss"),
        ("pref_loss", "LLaMA-Factory's `pref_loss` is `loss_type` here."),
    ],
)
def test_unknown_keys(key: str, message: str) -> None:
    assert message in error_message(f"{key}: 1")


def test_a_foreign_key_of_another_method_says_so() -> None:
    with pytest.raises(SettingsError) as caught:
        build(SftSettings, read_yaml(REQUIRED + "kl_coef: 1", source="x.yaml"), where="train sft")
    assert "`kl_coef` is `beta` here, which train sft does not take." in str(caught.value)


def test_unknown_keys_inside_a_table() -> None:
    assert "`lora.rank` is not a key (x.yaml:4)" in error_message("lora: {rank: 8}")
    assert "torchtune and LLaMA-Factory's `rank` is `r` here." in error_message("lora: {rank: 8}")
    assert "`lora.alpa` is not a key" in error_message("lora: {alpa: 8}")
    assert "Did you mean `alpha`?" in error_message("lora: {alpa: 8}")


def test_every_foreign_name_points_to_a_key_that_exists() -> None:
    from accord.settings.reading.foreign import FOREIGN, FOREIGN_IN_LORA
    from accord.settings.recipe import METHOD_SETTINGS, STAGE_SETTINGS
    from accord.settings.training import LoraSettings

    classes = [c for c in STAGE_SETTINGS.values() if not isinstance(c, dict)] + [
        *METHOD_SETTINGS.values()
    ]
    keys = {key for c in classes for key in c.model_fields} | {"method"}
    keys |= {f"lora.{key}" for key in LoraSettings.model_fields}
    for name, foreign in FOREIGN.items():
        assert not foreign.accord_key or foreign.accord_key in keys, name
        assert foreign.accord_key or foreign.note, name
    for name, foreign in FOREIGN_IN_LORA.items():
        assert not foreign.accord_key or foreign.accord_key in LoraSettings.model_fields, name


def online_error(method: str, *overrides: str) -> str:
    values = apply_overrides(read_yaml(REQUIRED + "reward_model: r", source="x.yaml"), overrides)
    with pytest.raises(SettingsError) as caught:
        build(METHOD_SETTINGS[method], values, where=f"train {method}")
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("grpo", "importance_sampling_level=sequence", "`sequence` is `accord train gspo`"),
        ("grpo", "loss_type=cispo", "TRL's is `accord train cispo` here."),
        ("rloo", "loss_type=dapo", "TRL's is `loss_type=token` here."),
        ("grpo", "loss_type=[dapo]", "Leave it out for the default, token."),
        ("cispo", "epsilon_high=5.0", "it is the bound itself: 1 + `cliprange_high`."),
        ("ppo", "adv_estimator=gae", "verl's `adv_estimator` is `method` here."),
        ("grpo", "soft_punish_cache=9", "TRL's `soft_punish_cache` is `overlong_buffer` here."),
        ("ppo", "filter_groups=true", "`dynamic_sampling_max_rounds` here, which train ppo does"),
    ],
)
def test_other_tools_names_of_online_methods(method: str, override: str, message: str) -> None:
    assert message in online_error(method, override)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reinforce++", "It is `reinforce_plus_plus` here."),
        ("DAPO", "It is `grpo` with `cliprange_high=0.28`, `beta=0`,"),
        ("dr-grpo", "It is `grpo` with `scale_rewards=false` and `loss_type=fixed` here."),
        ("gsppo", "Did you mean `gspo`?"),
        ("xyz", f"There is no method 'xyz'. The methods are `{next(iter(METHOD_SETTINGS))}`"),
    ],
)
def test_methods_of_other_tools_and_papers(name: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find_method(name)
    assert message in str(caught.value)


def test_what_foreign_methods_and_values_name_exists() -> None:
    keys = {key for c in METHOD_SETTINGS.values() for key in c.model_fields}
    for text in FOREIGN_METHODS.values():
        method, *settings = re.findall(r"`(\w+)", text)
        assert method in METHOD_SETTINGS
        assert set(settings) <= keys
    assert not set(FOREIGN_METHODS) & set(METHOD_SETTINGS)
    for key, _ in FOREIGN_VALUES:
        assert key in keys


def test_aliases_mean_the_same() -> None:
    text = "model_name_or_path: m\ndataset_name: d\noutput_dir: o\nbf16: true\n"
    text += "use_peft: true\nlora_r: 4\nresume_from_checkpoint: false\nmax_seq_length: 99"
    settings = build(DpoSettings, read_yaml(text, source="x.yaml"), where="train dpo")
    assert (settings.model, settings.dataset, settings.precision) == ("m", "d", "bf16")
    assert settings.lora is not None
    assert settings.lora.r == 4
    assert settings.resume is False
    assert settings.max_length == 99

    text = REQUIRED + "reward_model: r\nkl_coef: 0.2\nlam: 0.9\nresponse_length: 16"
    ppo = build(PpoSettings, read_yaml(text, source="x.yaml"), where="train ppo")
    assert (ppo.beta, ppo.gae_lambda, ppo.max_new_tokens) == (0.2, 0.9, 16)


def test_an_alias_beside_its_key_is_an_error() -> None:
    assert (
        "`model_name_or_path` (x.yaml:4) and `model` (x.yaml:1) are the same setting. "
        "Keep one of the two." in error_message("model_name_or_path: other")
    )
    both = error_message("", "model=a", "model_name_or_path=b")
    assert "`model_name_or_path` (on the command line) and `model` (on the command" in both


def test_the_command_line_wins_over_the_file_under_either_name() -> None:
    assert dpo("", "model_name_or_path=other").model == "other"
    values = read_yaml("model_name_or_path: m\ndataset: d\noutput_dir: o", source="x.yaml")
    settings = build(DpoSettings, apply_overrides(values, ["model=other"]), where="train dpo")
    assert settings.model == "other"


def test_values_of_aliases_that_cannot_be_translated() -> None:
    assert "`bf16` must be true or false, not 'auto' (x.yaml:4)." in error_message("bf16: auto")
    message = error_message("resume_from_checkpoint: runs/a/checkpoint-3")
    assert "accord resumes from the last checkpoint in `output_dir`" in message
    # TRL ignores lora_r without use_peft; turning adapters on instead would change the run.
    message = error_message("lora_r: 8")
    assert "`lora_r` (x.yaml:4) does nothing unless adapters are on." in message
    assert "Write `lora: {r: 8}`" in message
    assert "says the opposite" in error_message("use_peft: false\nlora: {r: 8}")


def test_lora_is_off_on_or_a_table() -> None:
    assert dpo("lora: off").lora is None
    on = dpo("lora: on").lora
    assert on is not None
    assert on.r == 16
    assert dpo("lora: {r: 4}", "lora=off").lora is None
    from_off = dpo("lora: off", "lora.r=3").lora
    assert from_off is not None
    assert from_off.r == 3


def test_overrides_reach_into_tables_and_lists() -> None:
    text = "contestants:\n  - {name: a, responses: b}\noutput_dir: o"
    values = apply_overrides(read_yaml(text, source="x.yaml"), ["contestants.0.name=c"])
    settings = build(ArenaSettings, values, where="arena")
    assert settings.contestants[0].name == "c"
    with pytest.raises(SettingsError, match=r"`contestants` is a list of 1\. Write a number from"):
        apply_overrides(read_yaml(text, source="x.yaml"), ["contestants.1.name=c"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("beta", "'beta' on the command line is not a setting. Write key=value"),
        ("=3", "'=3' on the command line is not a setting"),
        ("beta=", "'beta=' on the command line has no value. Write beta=null"),
        ("beta=[1", "'beta=[1' on the command line is not YAML"),
        ("model.x=3", "leads nowhere: `model` is 'm' (x.yaml:1) and has no keys"),
    ],
)
def test_malformed_overrides(override: str, message: str) -> None:
    assert message in error_message("", override)


def test_an_override_given_twice_is_an_error() -> None:
    assert "`beta` is set twice on the command line" in error_message("", "beta=1", "beta=2")
    assert "`lora.r` is set twice" in error_message("", "lora={r: 2}", "lora.r=3")


def test_entries_of_lists_and_free_tables() -> None:
    with pytest.raises(SettingsError, match=r"`responses\.0` must be such as `responses` allows"):
        build(CompareSettings, {"responses": [3], "output_dir": "o"}, where="compare")
    values = {"dataset": "d", "output_dir": "o", "config": {"a": [1]}}
    with pytest.raises(SettingsError, match=r"`config\.a` must be such as `config` allows"):
        build(ScratchSettings, values, where="scratch")
    with pytest.raises(SettingsError, match=r"`contestants\.0\.responses` is missing"):
        build(ArenaSettings, {"contestants": [{"name": "a"}], "output_dir": "o"}, where="arena")


def test_a_path_in_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path("/home/ann")))
    assert dpo("eval_dataset: ~/rows.jsonl").eval_dataset == "/home/ann/rows.jsonl"


@pytest.mark.parametrize(("method", "rate"), [("sft", 2e-4), ("dpo", 1e-5), ("ppo", 3e-5)])
def test_the_default_learning_rate_is_ten_times_as_high_with_lora(method: str, rate: float) -> None:
    required: dict[str, Any] = {"model": "m", "dataset": "d", "output_dir": "o"}
    if method == "ppo":
        required["reward_model"] = "r"

    def loaded(**more: Any) -> Any:
        return build(METHOD_SETTINGS[method], {**required, **more}, where="x")

    assert loaded(lora={"r": 4}).learning_rate == rate
    assert loaded(lora={"r": 4}, learning_rate=1e-3).learning_rate == 1e-3
    assert loaded().learning_rate == pytest.approx(rate / 10)
    reloaded = type(loaded())(**loaded(lora={}).model_dump())
    assert reloaded == loaded(lora={})
