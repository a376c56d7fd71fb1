"""A model's tensors under its checkpoint's names, with its adapter added."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from accord.errors import SettingsError
from accord.lm.adapters.lora import add_adapters
from accord.lm.adapters.switch import POLICY
from accord.lm.checkpoint_weights import checkpoint_weights
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.settings.training import LoraSettings
from tests.lm.models import CONFIGS
from tests.lm.toys import save_toy, with_adapters


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3-moe"])
@pytest.mark.parametrize("loaded", [False, True], ids=["built", "loaded"])
def test_names_and_tensors_are_those_of_a_saved_model(
    name: str, loaded: bool, tmp_path: Path
) -> None:
    # qwen3-moe joins the tensors of its experts when it is loaded.
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    model.save_pretrained(tmp_path)
    if loaded:
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    given = dict(checkpoint_weights(LanguageModel(model, None, "toy")))
    assert set(given) == set(saved)
    for key, tensor in given.items():
        assert torch.equal(tensor, saved[key])


def test_a_weight_without_an_adapter_is_no_copy(tmp_path: Path) -> None:
    lm = load_causal(save_toy(tmp_path / "model"), device="cpu")
    pointers = {p.data_ptr() for p in lm.model.parameters()}
    assert {t.data_ptr() for _, t in checkpoint_weights(lm)} == pointers


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_is_added_as_peft_merges_it(architecture: str, tmp_path: Path) -> None:
    lm = with_adapters(load_causal(save_toy(tmp_path / "model", architecture), device="cpu"), 0)
    before = {n: p.clone() for n, p in lm.model.named_parameters()}
    given = dict(checkpoint_weights(lm))
    merged = deepcopy(lm.model).merge_and_unload()
    expected = dict(merged.named_parameters())
    assert set(given) == set(expected)
    for name, tensor in given.items():
        torch.testing.assert_close(tensor, expected[name])
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_an_adapter_on_tied_embeddings_is_refused(tmp_path: Path) -> None:
    lm = load_causal(save_toy(tmp_path / "model"), device="cpu")
    lm = add_adapters(lm, LoraSettings(target_modules=["embed_tokens", "q_proj"]), seed=0)
    with pytest.raises(SettingsError, match=r"Leave the embeddings out of lora\.target_modules"):
        dict(checkpoint_weights(lm))


EXPERTS = "mlp.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "qwen3-moe",
            LoraConfig(target_parameters=[EXPERTS]),
            r"mixture's experts.*target_modules",
        ),
        ("gpt2", LoraConfig(target_modules=["c_attn"], lora_bias=True), "is no sum"),
        ("llama", LoraConfig(target_modules=["q_proj"], use_dora=True), "is no sum"),
    ],
    ids=["experts", "bias", "dora"],
)
def test_an_adapter_that_is_no_sum_with_a_weight_is_refused(
    name: str, config: LoraConfig, message: str
) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_config(CONFIGS[name]), config, POLICY)
    with pytest.raises(SettingsError, match=message):
        dict(checkpoint_weights(LanguageModel(model, None, "toy")))


def test_a_layer_whose_name_begins_with_that_of_a_layer_with_an_adapter(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    for block in model.model.layers:
        block.mlp.gate = nn.Linear(4, 4, bias=False)  # beside gate_proj
    names = {name for name, _ in model.named_parameters()}
    model = get_peft_model(model, LoraConfig(target_modules=["gate"]), POLICY)
    assert {n for n, _ in checkpoint_weights(LanguageModel(model, None, "toy"))} == names
