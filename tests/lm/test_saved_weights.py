"""What a trained model is saved as: its form, and the dtype of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from accord.lm import saved_weights
from accord.lm.adapters.lora import add_adapters
from accord.lm.adapters.stack import saved_form
from accord.lm.forward import response_logps, response_scores
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.packing import pack
from accord.lm.saved_weights import stored_dtype
from accord.settings.training import LoraSettings
from tests.lm.toys import ARCHITECTURES, random_groups, save_toy, toy_tokenizer, with_adapters

PROBE = random_groups([(5, (3, 9)), (2, (4, 2))], len(toy_tokenizer()))
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def in_dtype(folder: str, dtype: torch.dtype) -> str:
    """A saved toy in another dtype, beside it."""
    other = f"{folder}-{dtype}".replace("torch.", "")
    shutil.copytree(folder, other)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(other)
    return other


def dtypes_in(folder: Path) -> set[str]:
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as tensors:
        return {str(tensors.get_slice(n).get_dtype()) for n in tensors.keys()}  # noqa: SIM118


def tensor_names(folder: str | Path) -> set[str]:
    with safe_open(Path(folder) / "model.safetensors", "pt") as tensors:
        return set(tensors.keys())


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_full_model_is_saved_in_the_dtype_of_its_base(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = in_dtype(save_toy(tmp_path / "toy", name), dtype)
    lm = load_causal(base, trainable=True)
    assert lm.weights_dtype == torch.float32  # optimiser steps need it
    for parameter in lm.model.parameters():
        parameter.add_(1e-3)
    save_model(lm, tmp_path / "saved", card="")
    assert dtypes_in(tmp_path / "saved") == {"BF16" if dtype == torch.bfloat16 else "F16"}
    assert tensor_names(tmp_path / "saved") == tensor_names(base)  # tied weights once
    assert lm.weights_dtype == torch.float32
    plain, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype="auto", output_loading_info=True
    )
    assert plain.dtype == dtype
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    # By hand: every weight of the trained model, rounded once.
    for (key, saved), trained in zip(plain.named_parameters(), lm.model.parameters(), strict=True):
        assert torch.equal(saved, trained.to(dtype)), key


def test_another_dtype_is_saved_when_asked_for(tmp_path: Path) -> None:
    base = in_dtype(save_toy(tmp_path / "toy"), torch.bfloat16)
    lm = load_causal(base, trainable=True)
    for name, expected in (("fp32", "F32"), ("fp16", "F16"), ("bf16", "BF16")):
        save_model(lm, tmp_path / name, card="", dtype=name)  # type: ignore[arg-type]
        assert dtypes_in(tmp_path / name) == {expected}
        config = json.loads((tmp_path / name / "config.json").read_text())
        dtypes = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
        assert config["dtype"] == dtypes[name]


def test_the_dtype_is_that_of_the_files_whatever_the_configuration_says(tmp_path: Path) -> None:
    base = in_dtype(save_toy(tmp_path / "toy"), torch.bfloat16)
    config = json.loads((Path(base) / "config.json").read_text())
    (Path(base) / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    assert stored_dtype(base) == torch.bfloat16
    assert stored_dtype(str(tmp_path / "toy")) == torch.float32
    assert stored_dtype("nobody/has-this") is None


def test_the_dtype_is_that_of_most_weights_and_not_of_most_tensors(tmp_path: Path) -> None:
    small = {f"norm.{i}": torch.zeros(2) for i in range(5)}
    save_file(
        {"x": torch.zeros(8, 8, dtype=torch.bfloat16), **small}, tmp_path / "model.safetensors"
    )
    assert stored_dtype(str(tmp_path)) == torch.bfloat16


def test_the_dtype_of_a_hub_model_is_that_of_its_cached_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(in_dtype(save_toy(tmp_path / "toy"), torch.bfloat16))
    cached = {"model.safetensors": str(folder / "model.safetensors")}
    requested: list[str] = []

    def look_up(name: str, file: str) -> str | None:
        requested.append(name)
        return cached.get(file)

    monkeypatch.setattr(saved_weights, "try_to_load_from_cache", look_up)
    assert stored_dtype("Qwen/Qwen2.5-0.5B-Instruct") == torch.bfloat16
    assert set(requested) == {"Qwen/Qwen2.5-0.5B-Instruct"}
    shutil.move(cached["model.safetensors"], folder / "a.safetensors")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
    (folder / "index.json").write_text(json.dumps(index))
    cached = {
        "model.safetensors.index.json": str(folder / "index.json"),
        "a.safetensors": str(folder / "a.safetensors"),
    }
    assert stored_dtype("owner/sharded") == torch.bfloat16
    requested.clear()
    assert stored_dtype("no/such/folder") is None
    assert requested == []


@torch.no_grad()
def test_a_reward_models_head_stays_float32(tmp_path: Path) -> None:
    base = in_dtype(save_toy(tmp_path / "toy"), torch.bfloat16)
    lm = load_scalar(base, new_head=True, trainable=True)
    save_model(lm, tmp_path / "rm", card="")
    assert dtypes_in(tmp_path / "rm") == {"BF16", "F32"}
    again = load_scalar(str(tmp_path / "rm"))
    assert torch.equal(again.inner.score.weight, lm.inner.score.weight)
    expected = response_scores(lm, pack(PROBE))  # the base's own weights: nothing was rounded
    torch.testing.assert_close(response_scores(again, pack(PROBE)), expected, rtol=0, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", num_labels=1)
    assert torch.isfinite(plain(input_ids=IDS).logits).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_an_adapter_on_a_merged_adapter_is_saved_as_one_on_the_first_base(
    name: str, tmp_path: Path
) -> None:
    base = save_toy(tmp_path / "toy", name)
    save_model(with_adapters(load_causal(base), seed=0), tmp_path / "first", card="")
    second = with_adapters(load_causal(str(tmp_path / "first")), seed=1)
    assert saved_form(second) == "stacked"
    expected = response_logps(second, pack(PROBE))
    save_model(second, tmp_path / "second", card="")
    config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, base)
    actual = response_logps(load_causal(str(tmp_path / "second")), pack(PROBE))
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)
    # The oracle: peft merges the first, and the second is trained on the result.
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path / "first"
    ).merge_and_unload()
    merged = merged.eval()(input_ids=IDS).logits
    wanted = second.model(input_ids=IDS).logits
    peft = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "second").eval()
    torch.testing.assert_close(peft(input_ids=IDS).logits, wanted, rtol=0, atol=2e-3)
    assert float((merged - wanted).abs().max()) > 1e-2


@torch.no_grad()
def test_the_adapters_of_a_stack_may_be_on_other_layers_with_another_scale(
    tmp_path: Path,
) -> None:
    base = save_toy(tmp_path / "toy")
    generator = torch.Generator().manual_seed(3)

    def train(lm: Any, **lora: Any) -> Any:
        lm = add_adapters(lm, LoraSettings(**lora), seed=0)
        for parameter in lm.trainable_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return lm

    first = train(load_causal(base), r=3, alpha=12, target_modules=["q_proj", "up_proj"])
    save_model(first, tmp_path / "first", card="")
    second = train(
        load_causal(str(tmp_path / "first")), r=2, alpha=1, target_modules=["q_proj", "o_proj"]
    )
    expected = response_logps(second, pack(PROBE))
    save_model(second, tmp_path / "second", card="")
    again = load_causal(str(tmp_path / "second"))
    torch.testing.assert_close(response_logps(again, pack(PROBE)), expected, rtol=0, atol=1e-4)
    third = train(again, r=1)  # and once more on top
    expected = response_logps(third, pack(PROBE))
    save_model(third, tmp_path / "third", card="")
    assert json.loads((tmp_path / "third" / "adapter_config.json").read_text())["r"] == 6
    again = load_causal(str(tmp_path / "third"))
    torch.testing.assert_close(response_logps(again, pack(PROBE)), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_reward_adapter_on_a_merged_adapter_is_saved_as_one_with_its_head(
    tmp_path: Path,
) -> None:
    base = save_toy(tmp_path / "toy")
    save_model(with_adapters(load_causal(base), seed=0), tmp_path / "first", card="")
    scorer = with_adapters(load_scalar(str(tmp_path / "first"), new_head=True, seed=1), seed=1)
    expected = response_scores(scorer, pack(PROBE))
    save_model(scorer, tmp_path / "rm", card="")
    again = load_scalar(str(tmp_path / "rm"))
    torch.testing.assert_close(response_scores(again, pack(PROBE)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("key", ["use_dora", "rank_pattern"])
@torch.no_grad()
def test_what_is_more_than_two_products_is_saved_as_a_full_model(key: str, tmp_path: Path) -> None:
    base = in_dtype(save_toy(tmp_path / "toy"), torch.bfloat16)
    save_model(with_adapters(load_causal(base), seed=0), tmp_path / "first", card="")
    second = with_adapters(load_causal(str(tmp_path / "first")), seed=1)
    path = tmp_path / "first" / "adapter_config.json"
    odd = {"use_dora": True, "rank_pattern": {"q_proj": 3}}[key]
    path.write_text(json.dumps({**json.loads(path.read_text()), key: odd}))
    assert saved_form(second) == "full"
    expected = response_logps(second, pack(PROBE))
    save_model(second, tmp_path / "second", card="")
    assert not (tmp_path / "second" / "adapter_config.json").exists()
    assert dtypes_in(tmp_path / "second") == {"BF16"}
    actual = response_logps(load_causal(str(tmp_path / "second")), pack(PROBE))
    assert float((actual - expected).abs().max()) < 0.2  # rounded to bf16, and no more
