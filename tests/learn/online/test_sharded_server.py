"""Processes that divide the policy give a vLLM server its whole weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from studies.forked import run_forked
from studies.sharded_cases import Case, build_inputs, run_case
from torch import Tensor
from transformers import AutoModelForCausalLM

from accord.errors import AccordError
from accord.learn.online import sampling
from accord.lm.model import LanguageModel
from accord.lm.sharding.shards import gathered
from tests.respond.fake_vllm import Answer, FakeVllm, completion

LOAD, RELOAD = "/v1/load_lora_adapter", "/collective_rpc"
STEPS = 3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def server(inputs: Path) -> Iterator[FakeVllm]:
    fake = FakeVllm()
    fake.answers["/v1/completions"] = different_words
    yield fake
    fake.close()


def different_words(body: Any) -> Answer:
    """Responses of a word each, so that their scores differ."""
    content = completion(body)
    for choice in content["choices"]:
        choice["token_ids"][:2] = [20 + choice["index"], 60 + choice["index"]]
    return 200, content


def record_published(fake: FakeVllm, root: Path) -> list[dict[str, Tensor]]:
    """The tensors of every folder that the server will read, as they are at that moment."""
    fake.take_weights(str(root))
    published: list[dict[str, Tensor]] = []
    reload = fake.answers[RELOAD]

    def read_weights(body: Any) -> Answer:
        folder = Path(body["kwargs"]["weights_path"])
        if folder != root:  # which it is given back at the end
            published.append(load_file(folder / "model.safetensors"))
            config = json.loads((folder / "config.json").read_text())
            assert not config["architectures"][0].startswith("FSDP")
            AutoModelForCausalLM.from_pretrained(folder)
        return reload(body)

    def read_adapter(body: Any) -> Answer:
        folder = Path(body["lora_path"])
        published.append(load_file(folder / "adapter_model.safetensors"))
        return 200, "Success"

    fake.answers |= {RELOAD: read_weights, LOAD: read_adapter}
    return published


def with_server(method: str, model: str, lora: bool, server: FakeVllm, **settings: Any) -> Case:
    sampler = {"kind": "vllm", "url": server.url}
    return Case(method, model, lora, tuple({"sampler": sampler, **settings}.items()))


def rows_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "model", "lora"),
    [
        ("GRPO", "Llama", False),
        ("GRPO", "Llama", True),
        ("PPO, separate critic", "Qwen3, tied", False),
    ],
)
def test_a_server_samples_from_the_whole_weights_of_each_iteration(
    method: str,
    model: str,
    lora: bool,
    server: FakeVllm,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "gathered", gathered_unless_policy)
    published = record_published(server, inputs / model)
    case = with_server(method, model, lora, server, learning_rate=1e-3)
    run_case(case, inputs, tmp_path / "one", processes=1, steps=STEPS)
    expected = list(published)
    published.clear()
    run_forked(
        2,
        lambda rank: check_all(run_case(case, inputs, tmp_path / "two", processes=2, steps=STEPS)),
        tmp_path / "log",
    )
    assert len(published) == len(expected) == STEPS
    for weights, others in zip(published, expected, strict=True):
        assert weights.keys() == others.keys()
        for name, tensor in weights.items():
            assert tensor.dtype == others[name].dtype
            assert torch.allclose(tensor, others[name], rtol=1e-4, atol=1e-5), name
    assert any(not torch.equal(published[0][name], published[-1][name]) for name in published[0])
    for row, other in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        for name in ("loss", "objective/scores", "sampler/mismatch_kl"):
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name
    assert not (tmp_path / "two/published").exists()
    assert server.weights in ("default", str(inputs / model))


def test_weights_are_published_in_the_precision_of_their_files(
    server: FakeVllm, inputs: Path, tmp_path: Path
) -> None:
    half = shutil.copytree(inputs / "Llama", tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    published = record_published(server, half)
    case = with_server("GRPO", "Llama", False, server, learning_rate=1e-2)
    case = replace(case, settings=(*case.settings, ("model", str(half))))

    def train(count: int) -> None:
        check_all(run_case(case, inputs, tmp_path / f"{count}", processes=count, steps=STEPS))

    train(1)
    run_forked(2, lambda rank: train(2), tmp_path / "log")
    alone, divided = published[:STEPS], published[STEPS:]
    for weights, others in zip(alone, divided, strict=True):
        assert weights.keys() == others.keys()
        for name, tensor in weights.items():
            assert tensor.dtype == others[name].dtype == torch.bfloat16
            assert torch.allclose(tensor, others[name], rtol=0.02, atol=1e-3), name


def gathered_unless_policy(*models: LanguageModel | None) -> AbstractContextManager[None]:
    """As `gathered`, for reward models: nobody computes with a whole policy."""
    assert all(lm is None or lm.scalar for lm in models)
    return gathered(*models)


def check_all(rows: list[Any]) -> None:
    assert len(rows) == STEPS


def test_weights_that_the_server_refuses_end_all_processes(
    server: FakeVllm, inputs: Path, tmp_path: Path
) -> None:
    server.take_weights(str(inputs / "Llama"))
    server.answers[RELOAD] = lambda body: (500, {"error": {"message": "out of memory"}})
    case = with_server("GRPO", "Llama", False, server)

    def work(rank: int) -> None:
        with pytest.raises(AccordError, match="out of memory"):
            run_case(case, inputs, tmp_path / "out", processes=2, steps=STEPS)

    run_forked(2, work, tmp_path / "log")
