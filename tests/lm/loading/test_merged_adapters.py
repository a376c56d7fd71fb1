"""Adapters of many kinds are merged with the numbers of plain peft, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from accord.errors import ModelError, SettingsError
from accord.lm.adapters.lora import add_adapters, continue_adapter, why_not_lora
from accord.lm.forward import response_logps
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.packing import pack
from accord.settings.training import LoraSettings
from tests.lm.models import causal
from tests.lm.packed_groups import wrapped
from tests.lm.test_load import plain_logps
from tests.lm.toys import random_groups, save_toy, toy_tokenizer

GROUPS = random_groups([(5, (3, 9)), (2, (4,)), (7, (1, 6, 2))], len(toy_tokenizer()))
LAYERS = ["q_proj", "v_proj"]
MERGED: dict[str, Any] = {
    "lora": LoraConfig(r=2, target_modules=LAYERS),
    "rank-stabilised": LoraConfig(r=4, target_modules=LAYERS, use_rslora=True),
    "dora": LoraConfig(r=2, target_modules=LAYERS, use_dora=True),
    "ranks": LoraConfig(r=2, target_modules=LAYERS, rank_pattern={"v_proj": 4}),
    "embedding": LoraConfig(r=2, target_modules=[*LAYERS, "embed_tokens"]),
    "saved-embedding": LoraConfig(r=2, target_modules=LAYERS, modules_to_save=["embed_tokens"]),
    "tokens": LoraConfig(r=2, target_modules=LAYERS, trainable_token_indices=[7, 9]),
    "pissa": LoraConfig(r=2, target_modules=LAYERS, init_lora_weights="pissa"),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "vera": peft.VeraConfig(r=2, target_modules=["q_proj", "o_proj"]),
    "loha": peft.LoHaConfig(r=2, target_modules=LAYERS),
    "lokr": peft.LoKrConfig(r=2, target_modules=LAYERS),
    "oft": peft.OFTConfig(oft_block_size=4, target_modules=LAYERS),
    "hra": peft.HRAConfig(r=2, target_modules=LAYERS),
    "fourier": peft.FourierFTConfig(n_frequency=16, target_modules=LAYERS),
}
PROMPTS: dict[str, Any] = {
    "PROMPT_TUNING": peft.PromptTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM),
    "P_TUNING": peft.PromptEncoderConfig(
        num_virtual_tokens=3, encoder_hidden_size=8, task_type=TaskType.CAUSAL_LM
    ),
    "PREFIX_TUNING": peft.PrefixTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM),
}


@torch.no_grad()
def save_adapter(folder: Path, base: str, config: Any, **options: Any) -> str:
    """An adapter of this kind, trained a little, with the toy tokenizer beside it."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder, **options)
    return str(folder)


@torch.no_grad()
def logps(path: str) -> Tensor:
    return response_logps(load_causal(path), pack(GROUPS)).double()


@pytest.mark.parametrize("name", MERGED)
def test_a_merged_adapter_has_the_numbers_of_plain_peft(name: str, tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    path = save_adapter(tmp_path / "adapter", base, MERGED[name])
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path).eval()
    with torch.no_grad():
        expected = plain_logps(plain, toy_tokenizer(), GROUPS)
    assert float((expected - logps(base)).abs().max()) > 1e-3
    torch.testing.assert_close(logps(path), expected, rtol=0, atol=1e-3)
    save_model(load_causal(path), tmp_path / "merged", card="")
    torch.testing.assert_close(logps(str(tmp_path / "merged")), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompt_learning_is_refused(kind: str, tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    path = save_adapter(tmp_path / "adapter", base, PROMPTS[kind])
    with pytest.raises(ModelError, match=f"is a {kind} adapter: it puts learned states before"):
        load_causal(path)


def with_new_tokens(folder: Path, base: str, config: Any, **options: Any) -> str:
    """An adapter on a base whose embeddings were resized for two new tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|note|>", "<|tool|>"], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = get_peft_model(model, config)
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    expected = model.eval()
    return expected


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("modules", "options"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, {}),
        ({}, {"save_embedding_layers": True}),
        ({"trainable_token_indices": [300, 301]}, {"save_embedding_layers": True}),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {}),
    ],
)
def test_an_adapter_brings_embeddings_of_new_tokens(
    modules: dict[str, Any], options: dict[str, Any], tied: bool, tmp_path: Path
) -> None:
    base = save_toy(tmp_path / "base", "llama" if tied else "mistral")
    if not tied and not {"modules_to_save", "save_embedding_layers"} & {*modules, *options}:
        pytest.skip("the head's rows are not saved: refused, below")
    if tied and "modules_to_save" in modules:
        modules = {"modules_to_save": ["embed_tokens"]}
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], **modules})
    plain: Any = with_new_tokens(tmp_path / "adapter", base, config, **options)
    lm = load_causal(str(tmp_path / "adapter"))
    new = len(lm.tokenizer)
    assert lm.inner.get_input_embeddings().weight.shape[0] == new
    ids = torch.tensor([[5, new - 1, 9, new - 2, 7]])
    with torch.no_grad():
        torch.testing.assert_close(lm.inner(input_ids=ids).logits, plain(input_ids=ids).logits)
    # Its embeddings serve a reward model too.
    scorer = load_scalar(str(tmp_path / "adapter"), new_head=True)
    assert scorer.inner.get_input_embeddings().weight.shape[0] == new


def test_new_tokens_without_the_rows_of_the_head_are_refused(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base", "mistral")
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])
    with_new_tokens(tmp_path / "adapter", base, config)
    with pytest.raises(ModelError, match="rows of the output head for the new tokens are not"):
        load_causal(str(tmp_path / "adapter"))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    path = save_adapter(tmp_path / "adapter", base, MERGED["lora"])
    other = save_toy(tmp_path / "other", "gpt2")
    change(path, base_model_name_or_path=other)
    with pytest.raises(ModelError, match=r"can't be merged into its base.*base_model_name_or_path"):
        load_causal(path)
    # One that fits some of its layers only, which peft loads with a warning.
    config = LoraConfig(r=2, target_modules=LAYERS)
    narrow = save_adapter(tmp_path / "narrow", base, config)
    change(narrow, target_modules=["q_proj"])
    with pytest.raises(ModelError, match=r"does not fit its base: .*v_proj.* adapter's file only"):
        load_causal(narrow)


def change(folder: str, **values: Any) -> None:
    file = Path(folder) / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_an_adapter_of_an_adapter_is_refused(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    first = save_adapter(tmp_path / "first", base, MERGED["lora"])
    second = save_adapter(tmp_path / "second", base, MERGED["lora"])
    change(second, base_model_name_or_path=first)
    with pytest.raises(ModelError, match="as its base, which is an adapter itself"):
        load_causal(second)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "./gone"}, "there is no such folder"),
        ({"peft_type": "NOVEL"}, "which the installed peft does not know"),
        ({"peft_type": None}, "which the installed peft does not know"),
        ({"r": "two"}, "can't be merged"),
    ],
)
def test_bad_adapter_configurations(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    path = save_adapter(tmp_path / "adapter", base, MERGED["lora"])
    change(path, **values)
    with pytest.raises(ModelError, match=message):
        load_causal(path)


@pytest.mark.parametrize("text", ["[]", "{", "null", '"x"', "[" * 5000])
def test_an_adapter_configuration_that_is_no_object(text: str, tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    path = save_adapter(tmp_path / "adapter", base, MERGED["lora"])
    (tmp_path / "adapter" / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json (can't be read|holds a)"):
        load_causal(path)


def test_an_adapter_that_started_from_the_bases_weights_is_merged_not_continued(
    tmp_path: Path,
) -> None:
    base = save_toy(tmp_path / "base")
    path = save_adapter(tmp_path / "adapter", base, MERGED["pissa"])
    assert "started from the base's weights (pissa)" in str(why_not_lora(path))
    with pytest.raises(SettingsError, match="can't continue training"):
        continue_adapter(load_causal(path, merge=False), path, LoraSettings(continue_adapter=True))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("all-linear", r"Use lora.target_modules=\[in_proj, x_proj\]"),
        (["dt_proj"], r"adapters on dt_proj.*they would do nothing. Use lora.target_modules=\[in_"),
        (["x_proj", "dt_proj"], r"adapters on dt_proj.*Use lora.target_modules=\[x_proj\]"),
        (["absent"], r"fits no layer.*such as|Use lora.target_modules=\[in_proj"),
    ],
)
def test_layers_of_a_state_space_model(layers: Any, message: str) -> None:
    lm = wrapped(causal("mamba"), shares_prefixes=False)
    with pytest.raises(SettingsError, match=message):
        add_adapters(lm, LoraSettings(r=2, target_modules=layers), seed=0)


def test_layers_of_a_state_space_model_that_carry_adapters() -> None:
    lm = wrapped(causal("mamba"), shares_prefixes=False)
    add_adapters(lm, LoraSettings(r=2, target_modules=["in_proj", "x_proj"]), seed=0)
    assert lm.trainable_parameters()
