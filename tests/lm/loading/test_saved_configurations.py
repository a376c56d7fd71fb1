"""A saved model's configurations name the tokens that end its responses, for other tools."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from accord.lm.adapters.lora import add_adapters
from accord.lm.digest import has_same_weights
from accord.lm.load import load_causal, load_scalar, save_model
from accord.settings.training import LoraSettings
from tests.lm.toys import save_toy, toy_tokenizer

END = "<|user|>"  # a chat template's end of a turn, which the base model does not stop at


def chat_model(folder: Path, **generation: Any) -> str:
    """A base model that ends with <|end|>, under a tokenizer whose turns end with another token."""
    path = save_toy(folder)
    tokenizer = deepcopy(toy_tokenizer())
    tokenizer.eos_token = END
    tokenizer.save_pretrained(path)
    values = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.7, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps({**values, **generation}))
    return path


def end_id() -> int:
    return int(toy_tokenizer().convert_tokens_to_ids(END))


@pytest.mark.parametrize("eos", [2, [2, 40], None])
def test_a_full_model(eos: Any, tmp_path: Path) -> None:
    path = chat_model(tmp_path / "base", eos_token_id=eos)
    lm = load_causal(path)
    before = lm.inner.config.to_dict()
    save_model(lm, tmp_path / "saved", card="")
    config = GenerationConfig.from_pretrained(tmp_path / "saved")
    others = [] if eos is None else [eos] if isinstance(eos, int) else eos
    assert config.eos_token_id == ([end_id(), *others] if others else end_id())
    assert (config.temperature, config.do_sample) == (0.7, True)  # what else it says stays
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.generation_config.eos_token_id == config.eos_token_id
    assert not config._from_model_config
    assert config.pad_token_id == toy_tokenizer().pad_token_id
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["eos_token_id"] == end_id()
    assert lm.inner.config.to_dict() == before
    assert has_same_weights(load_causal(path), str(tmp_path / "saved"))
    # What ends a response in accord is the same before and after.
    assert load_causal(str(tmp_path / "saved")).eos_ids == lm.eos_ids
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.chat_template == toy_tokenizer().chat_template


@torch.no_grad()
def test_plain_generate_stops_at_the_end_that_was_taught(tmp_path: Path) -> None:
    lm = load_causal(chat_model(tmp_path / "base"))
    lm.inner.lm_head.weight = torch.nn.Parameter(torch.zeros_like(lm.inner.lm_head.weight))
    lm.inner.config.tie_word_embeddings = False
    lm.inner.lm_head.weight[end_id()] = lm.inner.model.norm.weight  # mostly that token
    save_model(lm, tmp_path / "saved", card="")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    model.lm_head.weight.zero_()
    ids = torch.tensor([[5, 6, 7]])
    hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
    model.lm_head.weight[end_id()] = hidden
    generated = model.generate(input_ids=ids, do_sample=False, max_new_tokens=9)
    assert generated[0].tolist() == [5, 6, 7, end_id()]


def test_an_adapter_brings_the_generation_settings_and_its_card_says_so(tmp_path: Path) -> None:
    lm = add_adapters(load_causal(chat_model(tmp_path / "base")), LoraSettings(r=2), seed=0)
    save_model(lm, tmp_path / "adapter", card="# A card\n")
    config = GenerationConfig.from_pretrained(tmp_path / "adapter")
    assert config.eos_token_id == [end_id(), 2]
    assert f"Responses end with `{END}`" in (tmp_path / "adapter" / "README.md").read_text()
    assert load_causal(str(tmp_path / "adapter")).eos_ids == {end_id(), 2}
    plain = add_adapters(load_causal(save_toy(tmp_path / "toy")), LoraSettings(r=2), seed=0)
    save_model(plain, tmp_path / "plain", card="# A card\n")
    assert (tmp_path / "plain" / "README.md").read_text() == "# A card\n"


def test_a_reward_model_retains_its_distinct_padding(tmp_path: Path) -> None:
    lm = load_scalar(chat_model(tmp_path / "base"), new_head=True)
    save_model(lm, tmp_path / "rm", card="")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    assert model.config.pad_token_id == lm.inner.config.pad_token_id != end_id()
    assert "score.weight" in load_file(tmp_path / "rm" / "model.safetensors")
