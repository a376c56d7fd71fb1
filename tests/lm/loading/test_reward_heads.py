"""Whether a folder has a trained scalar head, and where another maker's reward model is read."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from accord.compare.rewards.models import model_reward
from accord.errors import ModelError
from accord.lm.in_memory import wrap_model
from accord.lm.load import load_causal, load_scalar, save_model
from accord.records import Message
from tests.lm.toys import save_toy, toy_tokenizer

WEIGHTS = "model.safetensors"
PROMPT = (Message("user", "the sea"),)
ANSWERS = ["yes", "no", "the cat sat on the mat", "a dog ran far away"]
CONVERSATION = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}END{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def classifier(labels: int = 1, **values: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(toy_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        num_labels=labels,
        pad_token_id=toy_tokenizer().pad_token_id,
        **values,
    )
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def save(folder: Path, model: Any, tokenizer: Any = None) -> str:
    model.save_pretrained(folder)
    (tokenizer or toy_tokenizer()).save_pretrained(folder)
    return str(folder)


def change(folder: str, **values: Any) -> None:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def head(path: str) -> Tensor:
    weight: Tensor = load_scalar(path).inner.score.weight.detach()
    return weight


@pytest.mark.parametrize(
    "values",
    [
        {"architectures": ["RewardModel"]},
        {"architectures": None},
        {"architectures": ["LlamaForCausalLM"]},
        {"problem_type": "regression"},
        {"id2label": {"0": "GOOD", "1": "BAD"}, "label2id": {"GOOD": 0, "BAD": 1}},
    ],
)
def test_a_head_in_the_files_is_kept_whatever_the_configuration_says(
    values: dict[str, Any], tmp_path: Path
) -> None:
    model = classifier()
    path = save(tmp_path / "rm", model)
    change(path, **values)
    assert torch.equal(head(path), model.score.weight)


def test_a_class_name_without_a_head_is_no_head(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    change(path, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(ModelError, match=r"toy has no trained scalar head.*`score\.weight`"):
        load_scalar(path)
    assert load_scalar(path, new_head=True).has_new_head


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("v_head.summary.weight", WEIGHTS),
        ("value_head.weight", "value_head.safetensors"),
        ("score.0.weight", WEIGHTS),
        ("reward_head.weight", WEIGHTS),
    ],
)
def test_a_head_of_another_tool_is_named(name: str, file: str, tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    at = tmp_path / "toy" / file
    tensors = load_file(at) if at.exists() else {}
    save_file({**tensors, name: torch.randn(1, 32)}, at, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{name}.*kind `python`"):
        load_scalar(path)


def test_a_new_head_scores_nothing_before_it_is_trained(tmp_path: Path) -> None:
    lm = load_scalar(save_toy(tmp_path / "toy"), new_head=True)
    with pytest.raises(ModelError, match="drawn at random and is not trained"):
        model_reward(lm)([PROMPT], ["yes"])


@pytest.mark.parametrize("saves_head", [True, False])
@pytest.mark.parametrize("task", [True, False])
@torch.no_grad()
def test_adapters_with_and_without_their_head(saves_head: bool, task: bool, tmp_path: Path) -> None:
    base = save_toy(tmp_path / "base")
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = LoraConfig(
        r=2,
        target_modules=["q_proj"],
        modules_to_save=["score"] if saves_head else None,
        task_type="SEQ_CLS" if task else None,
    )
    model = get_peft_model(model, config)
    model.save_pretrained(tmp_path / "adapter")
    if task or saves_head:  # for this task peft saves it unasked
        kept = model.base_model.model.score.modules_to_save["default"].weight
        assert torch.equal(head(str(tmp_path / "adapter")), kept)
    else:
        with pytest.raises(ModelError, match=r"adapter must be saved with modules_to_save"):
            load_scalar(str(tmp_path / "adapter"))


@torch.no_grad()
def test_an_adapter_without_a_head_on_a_reward_model_has_its_bases(tmp_path: Path) -> None:
    model = classifier()
    save(tmp_path / "base", model)
    adapted = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    get_peft_model(adapted, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "adapter"
    )
    assert torch.equal(head(str(tmp_path / "adapter")), model.score.weight)


@pytest.mark.parametrize("labels", [2, 3, 5])
def test_classifiers_of_several_labels(labels: int, tmp_path: Path) -> None:
    path = save(tmp_path / "rm", classifier(labels))
    for options in ({}, {"new_head": True}, {"new_head": True, "heads": labels}):
        with pytest.raises(ModelError, match=f"with {labels} labels.*kind `python`"):
            load_scalar(path, **options)


def test_encoders(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
    )
    path = save(tmp_path / "rm", BertForSequenceClassification(config))
    with pytest.raises(ModelError, match=r"BertForSequenceClassification.*kind `python`"):
        load_scalar(path)
    with pytest.raises(ModelError, match=r"BertForSequenceClassification.*Python function"):
        wrap_model(BertForSequenceClassification(config), toy_tokenizer())


def tokenizer_with(end: str, pad: str) -> Any:
    tokenizer = deepcopy(toy_tokenizer())
    tokenizer.chat_template = CONVERSATION.replace("END", end)
    tokenizer.pad_token = {"eos": tokenizer.eos_token, "own": tokenizer.pad_token}[pad]
    return tokenizer


@torch.no_grad()
def plain_scores(path: str, dtype: torch.dtype, *, padded: bool) -> list[float]:
    """Scores by transformers alone, of the ids that apply_chat_template gives."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval()
    turns: Any = [
        [{"role": "user", "content": "the sea"}, {"role": "assistant", "content": answer}]
        for answer in ANSWERS
    ]
    if padded:
        batch = tokenizer.apply_chat_template(
            turns, return_tensors="pt", return_dict=True, padding=True
        )
        return [float(x) for x in model(**batch).logits[:, 0]]
    rows = [
        tokenizer.apply_chat_template([t], return_tensors="pt", return_dict=True) for t in turns
    ]
    return [float(model(**row).logits[0, 0]) for row in rows]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pad", ["own", "eos"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", " done"])
def test_a_model_of_another_maker_is_read_as_transformers_reads_it(
    end: str, pad: str, precision: Any, tmp_path: Path
) -> None:
    tokenizer, model = tokenizer_with(end, pad), classifier()
    model.config.pad_token_id = tokenizer.pad_token_id
    path = save(tmp_path / "rm", model, tokenizer)
    lm = load_scalar(path, precision=precision)
    actual = model_reward(lm)([PROMPT] * len(ANSWERS), ANSWERS)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    tolerance = 1e-4 if precision == "fp32" else 0.1
    for padded in (True, False):
        expected = plain_scores(path, dtype, padded=padded)
        assert actual == pytest.approx(expected, abs=tolerance)
    assert max(actual) - min(actual) > 0.5
    # Saved again it is still read there, and an object in memory is too.
    save_model(lm, tmp_path / "again", card="")
    again = model_reward(load_scalar(str(tmp_path / "again"), precision=precision))
    assert again([PROMPT] * len(ANSWERS), ANSWERS) == pytest.approx(actual, abs=tolerance)
    plain = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype)
    in_memory = model_reward(wrap_model(plain, AutoTokenizer.from_pretrained(path)))
    assert in_memory([PROMPT] * len(ANSWERS), ANSWERS) == pytest.approx(actual, abs=tolerance)


def test_where_another_makers_scores_are_read_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "rm", classifier())
    with caplog.at_level("INFO", logger="accord"):
        model_reward(load_scalar(path))([PROMPT], ["yes"])
    assert "at the last token of the whole rendered conversation" in caplog.text


@torch.no_grad()
def test_accords_own_reward_models_are_read_at_the_end_of_the_response(tmp_path: Path) -> None:
    tokenizer, model = tokenizer_with("\n", "own"), classifier()
    path = save(tmp_path / "rm", model, tokenizer)
    (tmp_path / "rm" / "reward.json").write_text('{"mean": 0.0, "std": 1.0, "heads": 1}')
    lm = load_scalar(path)
    assert not lm.reads_last_token
    (score,) = model_reward(lm)([PROMPT], ["yes"])
    ids = tokenizer("<|begin|><|user|>the sea<|assistant|>yes<|end|>", return_tensors="pt")
    hidden = model.model(input_ids=ids["input_ids"]).last_hidden_state[0, -1]
    assert score == pytest.approx(float(model.score(hidden)), abs=1e-4)


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"mean": "x", "std": 1}'])
def test_a_reward_file_that_is_none(text: str, tmp_path: Path) -> None:
    path = save(tmp_path / "rm", classifier())
    (tmp_path / "rm" / "reward.json").write_text(text)
    with pytest.raises(ModelError, match=r"reward\.json"):
        load_scalar(path)


def test_a_reward_file_of_other_heads(tmp_path: Path) -> None:
    path = save(tmp_path / "rm", classifier())
    (tmp_path / "rm" / "reward.json").write_text('{"mean": 0.0, "std": 1.0, "heads": 3}')
    with pytest.raises(ModelError, match="says that it has 3 heads, and the weight files have 1"):
        load_scalar(path)


def test_a_language_model_is_loaded_whatever_its_class_is_called(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "toy")
    change(path, architectures=["LlamaForSequenceClassification"])
    assert not load_causal(path).scalar
