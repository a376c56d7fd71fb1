"""The files of a world: disjoint, the same for a seed, and loadable in transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from accord.errors import SettingsError
from accord.lm.scratch import train_tokenizer
from accord.settings.stages import WorldSettings
from accord.world.build import build_world, distinct_tasks
from accord.world.language import split_words
from accord.world.reward import true_reward
from accord.world.tasks import parse_task
from accord.world.vocabulary import WORD_CLASS

SIZES = {"demonstrations": 1500, "corpus": 1500, "train_prompts": 400, "test_prompts": 100}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_world(WorldSettings(output_dir=str(folder), seed=3, **SIZES, **SMALL))
    return folder


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _prompts(path: Path) -> list[str]:
    return [row["prompt"][-1]["content"] for row in _rows(path)]


def test_the_files_have_their_formats(world: Path) -> None:
    for key, size in SIZES.items():
        assert len(_rows(world / f"{key}.jsonl")) == size
    for name in ("train_prompts", "test_prompts"):
        for row in _rows(world / f"{name}.jsonl"):
            assert row.keys() == {"prompt", "meta"}
            assert row["meta"] == {"kind": parse_task(row["prompt"][0]["content"]).kind}
    for row in _rows(world / "demonstrations.jsonl"):
        assert row.keys() == {"prompt", "completion"}
        assert [m["role"] for m in row["prompt"]] == ["user"]
        assert 0 <= true_reward(row["prompt"][0]["content"], row["completion"]) <= 1
    assert all(row.keys() == {"text"} for row in _rows(world / "corpus.jsonl"))


def test_test_prompts_are_in_no_other_file(world: Path) -> None:
    test = _prompts(world / "test_prompts.jsonl")
    train = _prompts(world / "train_prompts.jsonl")
    demonstrated = _prompts(world / "demonstrations.jsonl")
    corpus = [row["text"].split("\n")[0] for row in _rows(world / "corpus.jsonl")]
    assert len(set(test)) == len(test)
    assert len(set(train)) == len(train)
    assert set(test).isdisjoint([*train, *demonstrated, *corpus])
    assert set(train).isdisjoint([*demonstrated, *corpus])
    requests = [text for row in _rows(world / "corpus.jsonl") if "\n" in (text := row["text"])]
    assert len(requests) > 1000  # otherwise the assertions above would be empty


def test_test_combinations_are_unseen_but_their_words_are_known(world: Path) -> None:
    test = _prompts(world / "test_prompts.jsonl")
    seen = [*_prompts(world / "train_prompts.jsonl"), *_prompts(world / "demonstrations.jsonl")]
    combinations = {parse_task(text).combination for text in test}
    assert combinations.isdisjoint(parse_task(text).combination for text in seen)
    seen_words = {word for text in seen for word in split_words(text)}
    assert {word for text in test for word in split_words(text)} <= seen_words


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def files(name: str, seed: int) -> dict[str, bytes]:
        folder = tmp_path / name
        sizes = {"demonstrations": 50, "corpus": 50, "train_prompts": 50, "test_prompts": 20}
        build_world(WorldSettings(output_dir=str(folder), seed=seed, **sizes, **SMALL))
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    state = torch.get_rng_state()
    first, again, other_seed = files("a", 1), files("b", 1), files("c", 2)
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert set(first) == set(other_seed)
    for name in ("test_prompts.jsonl", "demonstrations.jsonl", "model/model.safetensors"):
        assert first[name] != other_seed[name]


def test_the_size_of_one_file_does_not_change_another(world: Path, tmp_path: Path) -> None:
    sizes = {**SIZES, "corpus": 10}
    build_world(WorldSettings(output_dir=str(tmp_path), seed=3, **sizes, **SMALL))
    for name in ("test_prompts", "train_prompts", "demonstrations"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (world / f"{name}.jsonl").read_bytes()


def test_the_tokenizer_does_not_split_slot_words_and_restores_texts(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert len(tokenizer) <= 1280
    split = [word for word in WORD_CLASS if len(tokenizer.encode(f" {word}")) > 1]
    assert not split
    for text in ("Dear Anna, thank you.", "  two  spaces\n", "naïve 日本語 🙂", "a <|b|> c"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    lengths = [len(tokenizer.encode(text)) for text in _prompts(world / "test_prompts.jsonl")]
    assert max(lengths) <= 40


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("content", ["Please thank Anna for the lamp.", "", " spaced \n"])
def test_the_rendered_prompt_is_a_prefix_of_the_conversation(
    world: Path, system: bool, content: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    messages = [{"role": "system", "content": "You are kind."}] if system else []
    messages.append({"role": "user", "content": content})
    answer = {"role": "assistant", "content": "Dear Anna, thank you for the lamp."}
    before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    after = tokenizer.apply_chat_template([*messages, answer], tokenize=False)
    assert after == f"{before}{answer['content']}{tokenizer.eos_token}"
    longer = [*messages, answer, {"role": "user", "content": "Again."}]
    assert tokenizer.apply_chat_template(longer, tokenize=False).startswith(after)


def test_the_template_refuses_other_roles(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    with pytest.raises(Exception, match="system, user and assistant, not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_the_model_has_the_size_in_the_settings(world: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    config = model.config
    assert config.model_type == "llama"
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 1, 2)
    assert config.intermediate_size == 48  # 8/3 · 16 = 42.7, rounded up to a multiple of 8
    assert config.tie_word_embeddings
    assert config.max_position_embeddings == 512
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert (world / "model" / "model.safetensors").is_file()
    prompt = [{"role": "user", "content": "Please thank Anna for the lamp."}]
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert written.shape[1] <= ids["input_ids"].shape[1] + 5


def test_the_default_model_is_small() -> None:
    settings = WorldSettings(output_dir="unused")
    width, layers, entries = (
        settings.hidden_size,
        settings.num_hidden_layers,
        settings.vocab_size,
    )
    # 4 d² of attention and 3 · d · 344 of MLP a layer, and tied embeddings.
    assert layers * (4 * width**2 + 3 * width * 344) + entries * width < 1_000_000


class _Everything:
    """Contains everything, like the used prompts when a world has no more."""

    def __contains__(self, item: object) -> bool:
        return True


def test_more_prompts_than_the_world_has_are_an_error() -> None:
    with pytest.raises(SettingsError, match="`train_prompts` asks for more prompts than the"):
        distinct_tasks(random.Random(0), 1, "train_prompts", _Everything())


def test_the_tokenizer_encodes_any_text() -> None:
    texts = [f"word{random.Random(i).randrange(50)}" for i in range(200)]
    tokenizer = train_tokenizer(texts, 300, 512)
    assert tokenizer.decode(tokenizer.encode("äöü")) == "äöü"
