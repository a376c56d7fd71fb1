"""Plain transformers and peft load the models that accord saves, with the same numbers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from accord.errors import ModelError, SettingsError
from accord.lm.adapters.lora import add_adapters
from accord.lm.adapters.views import base_view
from accord.lm.forward import response_logps, response_scores
from accord.lm.load import REWARD_FILE, load_causal, load_scalar, save_model
from accord.lm.packing import PromptGroup, pack
from accord.settings.training import LoraSettings
from tests.lm.toys import ARCHITECTURES, random_groups, save_toy, toy_tokenizer, with_adapters

GROUPS = random_groups([(5, (3, 9)), (2, (4,)), (7, (1, 6, 2))], len(toy_tokenizer()))
EOS = 2
ENDED = [PromptGroup(g.prompt, tuple((*r, EOS) for r in g.responses), g.ranks) for g in GROUPS]


def padded(tokenizer: Any, groups: Sequence[PromptGroup]) -> Any:
    """All rows as one batch, padded on the right, as is usual in transformers."""
    rows = [[*g.prompt, *r] for g in groups for r in g.responses]
    return tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")


def plain_logps(model: Any, tokenizer: Any, groups: Sequence[PromptGroup]) -> Tensor:
    logits = model(**padded(tokenizer, groups)).logits.double().log_softmax(-1)
    actual, row = [], 0
    for group in groups:
        for response in group.responses:
            begin = len(group.prompt) - 1
            at = logits[row, begin : begin + len(response)]
            actual.append(at.gather(1, torch.tensor(response)[:, None]).squeeze(1))
            row += 1
    return torch.cat(actual)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_saved_model_loads_in_plain_transformers(name: str, tmp_path: Path) -> None:
    lm = load_causal(save_toy(tmp_path / "toy", name))
    save_model(lm, tmp_path / "saved", card="# A card\n")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    actual = plain_logps(model, tokenizer, GROUPS)
    expected = response_logps(lm, pack(GROUPS)).double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    again = response_logps(load_causal(str(tmp_path / "saved")), pack(GROUPS)).double()
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-6)
    assert (tmp_path / "saved" / "README.md").read_text() == "# A card\n"
    assert not (tmp_path / "saved" / REWARD_FILE).exists()
    kinds = {p.suffix for p in (tmp_path / "saved").iterdir()}
    assert not kinds & {".bin", ".pt", ".pkl"}


@pytest.mark.parametrize("pad_is_eos", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_saved_reward_model_scores_the_same_in_plain_transformers(
    name: str, pad_is_eos: bool, tmp_path: Path
) -> None:
    path = save_toy(tmp_path / "toy", name)
    if pad_is_eos:
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(path)
    lm = load_scalar(path, new_head=True)
    lm.score_mean, lm.score_std = 1.25, 0.5
    save_model(lm, tmp_path / "rm", card="")
    expected = response_scores(lm, pack(ENDED))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    actual = model(**padded(tokenizer, ENDED)).logits[:, 0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    again = load_scalar(str(tmp_path / "rm"))
    assert (again.score_mean, again.score_std) == (1.25, 0.5)
    torch.testing.assert_close(response_scores(again, pack(ENDED)), expected, rtol=0, atol=1e-6)
    assert (tmp_path / "rm" / REWARD_FILE).is_file()


def test_a_new_head_comes_from_the_seed(tmp_path: Path) -> None:
    # Normal with standard deviation 1/√(width + 1), width 32.
    path = save_toy(tmp_path / "toy")
    heads = [load_scalar(path, new_head=True, seed=seed).model.score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert 0.6 < float(heads[0].detach().std()) * 33**0.5 < 1.4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_a_saved_adapter_loads_in_plain_peft(name: str, tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy", name)
    base = response_logps(load_causal(path), pack(GROUPS))
    lm = with_adapters(load_causal(path), seed=0)
    expected = response_logps(lm, pack(GROUPS))
    assert float((expected - base).abs().max()) > 0.05  # the adapter does something
    off = response_logps(base_view(lm), pack(GROUPS))
    torch.testing.assert_close(off, base, rtol=0, atol=1e-5)
    save_model(lm, tmp_path / "adapter", card="")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()

    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    actual = plain_logps(model, tokenizer, GROUPS)
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=1e-4)
    merged = load_causal(str(tmp_path / "adapter"))
    assert not merged.is_peft
    torch.testing.assert_close(response_logps(merged, pack(GROUPS)), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_an_adapter_of_a_reward_model_loads_with_its_head(tmp_path: Path) -> None:
    lm = with_adapters(load_scalar(save_toy(tmp_path / "toy"), new_head=True, seed=3), seed=0)
    lm.score_mean = -2.0
    expected = response_scores(lm, pack(ENDED))
    save_model(lm, tmp_path / "adapter", card="")
    merged = load_scalar(str(tmp_path / "adapter"), seed=99)
    assert merged.score_mean == -2.0
    torch.testing.assert_close(response_scores(merged, pack(ENDED)), expected, rtol=0, atol=1e-4)
    plain = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "adapter", num_labels=1
    ).eval()
    plain.config.pad_token_id = merged.tokenizer.pad_token_id
    actual = plain(**padded(merged.tokenizer, ENDED)).logits[:, 0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_reward_model_may_start_from_an_adapter(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    lm = with_adapters(load_causal(path), seed=0)
    save_model(lm, tmp_path / "sft", card="")
    scorer = load_scalar(str(tmp_path / "sft"), new_head=True, seed=1)
    expected = (
        lm.model.get_base_model().model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state
    )
    actual = scorer.backbone(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_adapters_leave_the_base_frozen_and_come_from_the_seed(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    models = [add_adapters(load_causal(path), LoraSettings(r=2), seed=s) for s in (0, 0, 1)]
    names = set(models[0].trainable_parameters())
    assert names
    assert all("lora_" in n for n in names)
    first, same, different = (
        [p.detach() for p in lm.trainable_parameters().values()] for lm in models
    )
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, different, strict=True))
    scorer = add_adapters(load_scalar(path, new_head=True), LoraSettings(r=2), seed=0)
    assert any("score" in n for n in scorer.trainable_parameters())


def test_adapters_on_layers_that_do_not_exist(tmp_path: Path) -> None:
    lm = load_causal(save_toy(tmp_path / "toy"))
    with pytest.raises(SettingsError, match=r"lora.target_modules = 'query_key' fits no layer"):
        add_adapters(lm, LoraSettings(target_modules="query_key"), seed=0)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "toy" / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="holds a model but no tokenizer"):
        load_causal(path)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_opened(name: str, tmp_path: Path) -> None:
    path, mark = save_toy(tmp_path / "toy"), tmp_path / "mark"
    (tmp_path / "toy" / "model.safetensors").unlink()
    (tmp_path / "toy" / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match=f"no safetensors weights .only {name}, which is pickle"):
        load_causal(path)
    with pytest.raises(ModelError, match="does not open pickle files"):
        load_scalar(path)
    assert not mark.exists()


def test_an_adapter_that_is_a_pickle_is_never_opened(tmp_path: Path) -> None:
    lm = with_adapters(load_causal(save_toy(tmp_path / "toy")), seed=0)
    save_model(lm, tmp_path / "adapter", card="")
    mark = tmp_path / "mark"
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match=r"only adapter_model\.bin, which is pickle"):
        load_causal(str(tmp_path / "adapter"))
    assert not mark.exists()


def test_no_weights_at_all(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    (tmp_path / "toy" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no safetensors weights \(none\)"):
        load_causal(path)


def test_the_output_folder_instead_of_the_model_in_it(tmp_path: Path) -> None:
    save_toy(tmp_path / "run" / "model")
    with pytest.raises(ModelError, match=r"no config.json in it. Did you mean '.*run/model'"):
        load_causal(str(tmp_path / "run"))


def test_a_missing_folder_with_a_similar_name(tmp_path: Path) -> None:
    save_toy(tmp_path / "policy")
    with pytest.raises(ModelError, match=r"No model folder '.*polcy'. Did you mean '.*policy'"):
        load_causal(str(tmp_path / "polcy"))


def test_broken_weights(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    (tmp_path / "toy" / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is no readable safetensors file"):
        load_causal(path)


def test_a_tokenizer_without_eos(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    config = tmp_path / "toy" / "tokenizer_config.json"
    numbers = json.loads(config.read_text())
    del numbers["eos_token"]
    config.write_text(json.dumps(numbers))
    with pytest.raises(ModelError, match="has no EOS token, so no response could end"):
        load_causal(path)


def test_eos_ids_are_those_of_tokenizer_and_generation_config(tmp_path: Path) -> None:
    lm = load_causal(save_toy(tmp_path / "toy"))
    assert lm.eos_ids == {EOS}
    lm.model.generation_config.eos_token_id = [EOS, 5]
    assert lm.eos_ids == {EOS, 5}


def test_bf16_weights(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    full = load_causal(path)
    bf16 = load_causal(path, precision="bf16", trainable=False)
    assert bf16.precision == "bf16"  # the checks of a loaded model compute in another
    assert next(bf16.model.parameters()).dtype == torch.bfloat16
    with torch.no_grad():
        exact = response_logps(full, pack(GROUPS))
        bf16_logps = response_logps(bf16, pack(GROUPS))
    assert float((exact - bf16_logps).abs().mean()) < 0.2


def test_a_missing_device(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SettingsError, match="torch finds no CUDA device"):
        load_causal(save_toy(tmp_path / "toy"), device="cuda")
