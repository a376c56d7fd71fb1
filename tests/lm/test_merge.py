"""`accord merge`: a full model with the numbers that peft's own merge has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from accord.cli.entry import run
from accord.lm.adapters.merge import merge_adapter
from accord.lm.forward import response_scores
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.packing import pack
from tests.lm.toys import ARCHITECTURES, random_groups, save_toy, toy_tokenizer, with_adapters

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def save_base(folder: Path, name: str, dtype: torch.dtype) -> str:
    base = save_toy(folder, name)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model.generation_config = GenerationConfig(temperature=0.5, do_sample=True, eos_token_id=2)
    model.save_pretrained(base)
    return base


def save_adapter(folder: Path, base: str, config: Any) -> Path:
    """An adapter that peft saves itself, its matrices random."""
    torch.manual_seed(1)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def plain_model(folder: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_merged_logits_are_those_of_peft(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", name, dtype)
    config = LoraConfig(r=3, lora_alpha=12, target_modules="all-linear", use_rslora=True)
    adapter = save_adapter(tmp_path / "adapter", base, config)
    assert run(["merge", str(adapter), "--output-dir", str(tmp_path / "out")]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == dtype
    plain = plain_model(base)
    untrained = plain(input_ids=IDS).logits
    plain = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
    for parameter in plain.parameters():
        parameter.copy_(parameter.to(dtype))  # summed in float32, and rounded once
    expected = plain(input_ids=IDS).logits
    actual = plain_model(tmp_path / "out")(input_ids=IDS).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert float((untrained - expected).abs().max()) > 0.01


def test_the_folder_has_all_that_the_base_had(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", torch.bfloat16)
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    config = LoraConfig(r=2, target_modules=["q_proj"])
    adapter = save_adapter(tmp_path / "adapter", base, config)
    run(["merge", str(adapter), "--output-dir", str(tmp_path / "out")])
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (generation.temperature, generation.do_sample) == (0.5, True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == toy_tokenizer().get_vocab()
    assert tokenizer.chat_template == toy_tokenizer().chat_template
    card = (tmp_path / "out" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "transformers"
    assert metadata["base_model"] == base
    assert metadata["license"] == "apache-2.0"
    assert "lora" not in metadata["tags"]
    assert not (tmp_path / "out" / "adapter_config.json").exists()


@torch.no_grad()
def test_a_run_of_a_reward_model_gives_a_full_reward_model(tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    lm = with_adapters(load_scalar(base, new_head=True, seed=3), seed=2)
    lm.score_mean, lm.score_std = 0.5, 2.0
    save_model(lm, tmp_path / "run" / "model", card="")
    assert run(["merge", str(tmp_path / "run"), "--output-dir", str(tmp_path / "out")]) == 0
    again = load_scalar(str(tmp_path / "out"))
    assert not again.is_peft
    assert (again.score_mean, again.score_std) == (0.5, 2.0)
    probe = pack(random_groups([(5, (3, 9))], len(toy_tokenizer())))
    torch.testing.assert_close(
        response_scores(again, probe), response_scores(lm, probe), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "IA3"),
        (PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "PROMPT_TUNING"),
    ],
)
def test_what_is_no_lora_is_refused(
    config: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_toy(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, config)
    assert run(["merge", str(adapter), "--output-dir", str(tmp_path / "out")]) == 2
    assert f"is a {kind} adapter, and not LoRA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_toy(tmp_path / "base")
    adapter = save_adapter(tmp_path / "a", base, LoraConfig(r=2, target_modules=["q_proj"]))

    def error(*arguments: str) -> str:
        assert run(["merge", *arguments]) == 2
        return capsys.readouterr().err

    assert "holds a full model" in error(base, "--output-dir", str(tmp_path / "out"))
    assert "holds no adapter" in error(str(tmp_path), "--output-dir", str(tmp_path / "out"))
    assert "is not empty" in error(str(adapter), "--output-dir", base)
    path = adapter / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "base_model_name_or_path": None}))
    assert "which model the adapter is on" in error(str(adapter), "--output-dir", "x")
    path.write_text("{")
    assert "can't be read" in error(str(adapter), "--output-dir", "x")
    assert "auto" in error(str(adapter), "--output-dir", "x", "--dtype", "int8")


def test_another_precision_is_saved_when_asked_for(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", torch.bfloat16)
    save_model(with_adapters(load_causal(base), seed=0), tmp_path / "adapter", card="")
    merge_adapter(
        tmp_path / "adapter", tmp_path / "out", card=lambda lm, base, config: "", dtype="fp32"
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert merged.dtype == torch.float32
