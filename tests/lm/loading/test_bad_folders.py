"""Folders that are not what they are taken for: each is refused in a sentence that says why."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    BertConfig,
    BertLMHeadModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from accord.errors import ModelError
from accord.lm.adapters.lora import add_adapters
from accord.lm.forward import response_logps
from accord.lm.load import base_and_adapter, load_causal, load_scalar, save_model
from accord.lm.packing import pack
from accord.settings.training import LoraSettings
from tests.lm.test_load import Bomb, plain_logps
from tests.lm.toys import random_groups, save_toy, toy_tokenizer

GROUPS = random_groups([(5, (3, 9)), (2, (4,))], len(toy_tokenizer()))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return Path(save_toy(tmp_path / "toy"))


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_causal(str(folder))
    with pytest.raises(ModelError, match=message):
        load_scalar(str(folder), new_head=True)


@pytest.mark.parametrize("text", ["[]", "{", "null", "3", '"llama"', "", "[" * 5000])
def test_a_configuration_that_is_no_object(text: str, toy: Path) -> None:
    (toy / "config.json").write_text(text)
    assert_refused(toy, r"config\.json (can't be read|holds a)")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "novel"}, "an architecture that the installed transformers does not know"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, and a number of at least 0"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"num_hidden_layers": 10_000_000}, r"10,000,000 layers, and the weight files hold \d+ t"),
        ({"hidden_size": 2.5}, r"hidden_size is 2\.5"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, and a number of at least 1"),
        ({"vocab_size": 10**12}, r"describes a .* of [\d,]+ parameters, and the weight files hold"),
        ({"intermediate_size": 10**9}, r"describes a .* of [\d,]+ parameters"),
        (
            {"vocab_size": 299},
            r"embed_tokens.weight has the shape \[299, 32\], and in the weight files it has "
            r"\[300, 32\].*Its vocab_size is 299, and 300 would fit",
        ),
        ({"num_hidden_layers": 3}, "the weight files have no model.layers.2.*would draw them at"),
        ({"hidden_act": "sqeaky"}, r"its config\.json makes no model"),
        ({"auto_map": {"AutoConfig": "code.Config"}, "model_type": "novel"}, "of its own|not know"),
    ],
)
def test_values_that_do_not_fit_the_files(values: dict[str, Any], message: str, toy: Path) -> None:
    change(toy, **values)
    assert_refused(toy, message)


def test_layers_that_the_configuration_leaves_out_are_named(
    toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(toy, num_hidden_layers=1)
    with caplog.at_level("WARNING", logger="accord"):
        load_causal(str(toy))
    assert "9 tensors of its weight files are not read" in caplog.text
    assert "model.layers.1." in caplog.text


QUANTISED: dict[str, Any] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8"},
    "compressed-tensors": {"quant_method": "compressed-tensors"},
    "hqq": {"quant_method": "hqq"},
    "quantization_config": {"bits": 4},
}


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_models(method: str, toy: Path) -> None:
    change(toy, quantization_config=QUANTISED[method])
    assert_refused(toy, rf"is quantised \({method}\).*dequantize")


def test_a_quantised_base_of_an_adapter(toy: Path, tmp_path: Path) -> None:
    lm = add_adapters(load_causal(str(toy)), LoraSettings(r=2), seed=0)
    save_model(lm, tmp_path / "adapter", card="")
    change(toy, quantization_config=QUANTISED["bitsandbytes"])
    assert_refused(tmp_path / "adapter", r"toy is quantised \(bitsandbytes\)")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_quantised_tensors_without_a_word_in_the_configuration(
    dtype: torch.dtype, toy: Path
) -> None:
    tensors = load_file(toy / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, toy / "model.safetensors", metadata={"format": "pt"})
    assert_refused(toy, f"the tensor {name} is stored as .*, so it is quantised")


def test_a_gguf_folder(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    assert_refused(tmp_path, "holds a GGUF file.*converted from")


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


_SHAPE: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
_BERT = {**_SHAPE, "intermediate_size": 32, "num_attention_heads": 2}


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    folder = save(tmp_path / "bert", BertLMHeadModel(BertConfig(**_BERT)))
    with pytest.raises(ModelError, match="BertLMHeadModel that reads the tokens behind a token"):
        load_causal(str(folder))
    with pytest.raises(ModelError, match="no decoder with a `score` head"):
        load_scalar(str(folder), new_head=True)


def test_an_encoder_decoder(tmp_path: Path) -> None:
    config = T5Config(vocab_size=300, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    assert_refused(
        save(tmp_path / "t5", T5ForConditionalGeneration(config)), r"encoder-decoder \(t5\)"
    )


@torch.no_grad()
def test_a_model_for_images_and_text_reads_text(tmp_path: Path) -> None:
    text = {**_BERT, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, image_token_index=299)
    config.boi_token_index, config.eoi_token_index = 298, 297
    folder = save(tmp_path / "gemma3", Gemma3ForConditionalGeneration(config))
    lm = load_causal(str(folder))
    plain = Gemma3ForConditionalGeneration.from_pretrained(folder).eval()
    expected = plain_logps(plain, toy_tokenizer(), GROUPS)
    torch.testing.assert_close(
        response_logps(lm, pack(GROUPS)).double(), expected, rtol=0, atol=1e-4
    )


def test_a_reward_model_is_no_language_model(toy: Path, tmp_path: Path) -> None:
    # Its embeddings could serve as a tied head: it would speak, in silence.
    save_model(load_scalar(str(toy), new_head=True), tmp_path / "rm", card="")
    with pytest.raises(ModelError, match="rm is a reward model: its files hold a scalar head"):
        load_causal(str(tmp_path / "rm"))


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_are_not_finite(name: str, toy: Path) -> None:
    spoil(toy, name, 0)
    assert_refused(toy, rf"the weights are not finite: 1 of [\d,]+ numbers in {name}")


def test_embeddings_that_are_not_finite_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy = Path(save_toy(tmp_path / "toy", "mistral"))  # its head has weights of its own
    spoil(toy, "model.embed_tokens.weight", 40)
    with caplog.at_level("WARNING", logger="accord"):
        load_causal(str(toy))
    token = toy_tokenizer().convert_ids_to_tokens(40)
    assert f"the embeddings of 1 tokens are not finite ({token!r})" in caplog.text


def spoil(folder: Path, name: str, row: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][row].view(-1)[0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def shard(toy: Path, file: object, index: str = "model.safetensors.index.json") -> None:
    """Rename the weights to a file that an index names."""
    tensors = load_file(toy / "model.safetensors")
    (toy / index).write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, file)})
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("evil.bin", "names evil.bin for the weights, which is not a safetensors file"),
        ("evil.pt", "which is not a safetensors file"),
        ("../../../../etc/passwd", "which is no file of that folder"),
        ("/etc/passwd", "which is no file of that folder"),
        ("sub/model.safetensors", "which is no file of that folder"),
        ("", "which is no file of that folder"),
        ("gone.safetensors", "and there is no such file"),
    ],
)
def test_an_index_that_names_other_files(file: str, message: str, toy: Path) -> None:
    mark = toy / "mark"
    for name in ("evil.bin", "evil.pt"):
        (toy / name).write_bytes(pickle.dumps(Bomb(mark)))
    shard(toy, file)
    (toy / "model.safetensors").unlink()
    assert_refused(toy, message)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text", ["[]", "{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}']
)
def test_an_index_that_is_none(text: str, toy: Path) -> None:
    (toy / "model.safetensors").unlink()
    (toy / "model.safetensors.index.json").write_text(text)
    assert_refused(toy, "is no index of safetensors files|no file of that folder")


def test_files_that_the_configuration_names(toy: Path) -> None:
    (toy / "evil.bin").write_bytes(pickle.dumps(Bomb(toy / "mark")))
    change(toy, transformers_weights="evil.bin")
    assert_refused(toy, "transformers_weights.* names evil.bin")
    change(toy, transformers_weights="../model.safetensors")
    assert_refused(toy, "which is no file of that folder")


def test_a_pickle_under_another_name(toy: Path) -> None:
    mark = toy / "mark"
    (toy / "evil.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (toy / "model.safetensors").unlink()
    (toy / "model.safetensors").symlink_to(toy / "evil.bin")
    assert_refused(toy, "is no readable safetensors file")
    assert not mark.exists()


def test_pickles_beside_an_empty_safetensors_file(toy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (toy / "model.safetensors").unlink()
    (toy / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    save_file({}, toy / "x.safetensors")
    assert_refused(toy, "no safetensors weights")
    lm = add_adapters(load_causal(save_toy(tmp_path / "base")), LoraSettings(r=2), seed=0)
    save_model(lm, tmp_path / "adapter", card="")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    save_file({}, tmp_path / "adapter" / "x.safetensors")
    assert_refused(
        tmp_path / "adapter",
        "no safetensors weights .only adapter_model.bin",
    )
    assert not mark.exists()


def test_a_distributed_checkpoint(toy: Path) -> None:
    shutil.copy(toy / "model.safetensors", toy / "shard-00001-model-00001-of-00002.safetensors")
    assert_refused(toy, "holds a distributed checkpoint")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["[]", "{", "3", '{"tokenizer_class": 3}'])
def test_a_tokenizer_that_cannot_be_read(name: str, text: str, toy: Path) -> None:
    (toy / name).write_text(text)
    with pytest.raises(ModelError, match=r"tokenizer of .*toy"):
        load_causal(str(toy))


def test_a_sharded_model_is_read(toy: Path, tmp_path: Path) -> None:
    expected = response_logps(load_causal(str(toy)), pack(GROUPS))
    model = LlamaForCausalLM.from_pretrained(toy)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    toy_tokenizer().save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert base_and_adapter(str(tmp_path / "shards")) == (str(tmp_path / "shards"), None)
    actual = response_logps(load_causal(str(tmp_path / "shards")), pack(GROUPS))
    torch.testing.assert_close(actual, expected)
    assert AutoConfig.from_pretrained(toy).model_type == "llama"
