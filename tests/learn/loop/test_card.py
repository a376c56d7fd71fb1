"""The model card says what was saved: its metadata by form, base and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import accord
from tests.learn.toys.saved import SavedToys, train

IDS = torch.tensor([[5, 6, 7, 8]])
LORA = {"lora": {"r": 2}}


def metadata(folder: Path) -> dict[str, Any]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return values


def bf16_base(toys: SavedToys, folder: Path) -> str:
    """The toy as a bf16 folder with a licence, as from the hub."""
    base = toys.model("llama")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Base\n")
    return str(folder)


def test_a_full_model(toys: SavedToys, tmp_path: Path) -> None:
    base = bf16_base(toys, tmp_path / "base")
    train("sft", toys.settings("sft", "llama", tmp_path / "run", model=base))
    folder = tmp_path / "run" / "model"
    assert metadata(folder) == {
        "library_name": "transformers",
        "base_model": base,
        "base_model_relation": "finetune",
        "pipeline_tag": "text-generation",
        "tags": ["accord", "sft", "full"],
        "license": "apache-2.0",
    }
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert plain.dtype == torch.bfloat16


def test_a_bf16_base_is_trained_in_float32_and_saved_in_bf16(
    toys: SavedToys, tmp_path: Path
) -> None:
    base = bf16_base(toys, tmp_path / "base")
    options = {"model": base, "max_steps": 3, "save_steps": 1}
    for precision in ("fp32", "bf16"):
        output = tmp_path / precision
        train("sft", toys.settings("sft", "llama", output, precision=precision, **options))
        plain = AutoModelForCausalLM.from_pretrained(output / "model", dtype="auto")
        assert plain.dtype == torch.bfloat16
    # As saved in float32, and then rounded: the training itself is the same.
    train("sft", toys.settings("sft", "llama", tmp_path / "f", save_dtype="fp32", **options))
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "f" / "model", dtype="auto")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "fp32" / "model", dtype="auto")
    assert full.dtype == torch.float32
    for a, b in zip(full.parameters(), half.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16), b)


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_an_adapter(method: str, toys: SavedToys, tmp_path: Path) -> None:
    train(method, toys.settings(method, "llama", tmp_path / "run", **LORA))
    values = metadata(tmp_path / "run" / "model")
    assert values["library_name"] == "peft"
    assert values["base_model"] == toys.model("llama")
    assert values["base_model_relation"] == "adapter"
    assert values["tags"] == ["accord", method, "lora"]
    tasks = {"dpo": "text-generation", "reward": "text-classification"}
    assert values["pipeline_tag"] == tasks[method]
    assert "license" not in values  # not known


def test_sft_and_then_dpo_with_adapters_ends_in_one_adapter_on_the_first_base(
    toys: SavedToys, tmp_path: Path
) -> None:
    base = bf16_base(toys, tmp_path / "base")
    options = {"precision": "bf16", "max_steps": 3, **LORA}
    train("sft", toys.settings("sft", "llama", tmp_path / "sft", model=base, **options))
    start = str(tmp_path / "sft" / "model")
    train("dpo", toys.settings("dpo", "llama", tmp_path / "dpo", model=start, **options))
    folder = tmp_path / "dpo" / "model"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 4)
    assert not (folder / "config.json").exists()
    values = metadata(folder)
    assert (values["library_name"], values["base_model"]) == ("peft", base)
    assert values["license"] == "apache-2.0"
    assert start in (folder / "README.md").read_text()  # what is in the sum
    with torch.no_grad():
        stacked, first = (
            AutoPeftModelForCausalLM.from_pretrained(path, dtype=torch.float32)(IDS).logits
            for path in (folder, start)
        )
    assert float((stacked - first).abs().max()) > 1e-3
    # And DPO that continues the SFT adapter: its own rank, on the same base.
    lora = {"lora": {"r": 2, "continue_adapter": True}}
    settings = {**options, **lora, "model": start}
    train("dpo", toys.settings("dpo", "llama", tmp_path / "on", **settings))
    config = json.loads((tmp_path / "on" / "model" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 2)
    assert metadata(tmp_path / "on" / "model")["base_model"] == base


def test_a_model_in_memory_has_no_base_that_can_be_named(toys: SavedToys, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(toys.model("llama"))
    model.config._name_or_path = ""
    run = accord.train(
        "sft",
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(toys.model("llama")),
        dataset=toys.data("sft"),
        max_steps=1,
        progress=False,
    )
    values = metadata(run.save(tmp_path / "saved"))
    assert "base_model" not in values
    assert values["library_name"] == "transformers"


def test_data_sets_are_named_only_as_on_the_hub(toys: SavedToys, tmp_path: Path) -> None:
    from accord.learn.loop.card import model_card
    from accord.lm.load import load_causal

    lm = load_causal(toys.model("llama"))
    for dataset, expected in (
        ("trl-lib/ultrafeedback_binarized", ["trl-lib/ultrafeedback_binarized"]),
        ("data/pairs.jsonl", None),
        (toys.data("sft"), None),
    ):
        settings = toys.settings("sft", "llama", tmp_path, dataset=dataset)
        card = model_card(lm, "sft", settings)
        assert yaml.safe_load(card.split("---")[1]).get("datasets") == expected
