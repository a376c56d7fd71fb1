"""Learning on the embedded world from samples of a real vLLM server: the true reward rises.

Runs where ACCORD_VLLM_PYTHON names a Python that has vLLM.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from benchmarks.workers.vllm_server import VllmServer, vllm_python

from accord.data.write import read_responses
from accord.pipeline import run_recipe, run_stage
from accord.pipeline.stages.sample import sample
from accord.runs import read_metrics
from accord.settings.recipe import load_recipe, single_stage
from accord.settings.sampling import SamplerSettings
from accord.settings.stages import SampleSettings
from accord.world.reward import true_reward

pytestmark = pytest.mark.skipif(vllm_python() is None, reason="ACCORD_VLLM_PYTHON is not set")

START = """\
output_dir: out
stages:
  - {stage: world, demonstrations: 6000, corpus: 5000, train_prompts: 600, test_prompts: 200,
     vocab_size: 1000, hidden_size: 128, num_hidden_layers: 2, num_attention_heads: 2}
  - {stage: train, name: base, method: sft, model: $world/model, dataset: $world/corpus.jsonl,
     per_device_train_batch_size: 32, learning_rate: 4.0e-3, warmup_ratio: 0.05, max_length: 256}
  - {stage: train, name: sft, method: sft, model: $base/model,
     dataset: $world/demonstrations.jsonl, per_device_train_batch_size: 32,
     learning_rate: 4.0e-3, warmup_ratio: 0.05, max_length: 256}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a world and of an SFT model trained on its demonstrations."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "start.yaml").write_text(START)
    run_recipe(load_recipe(folder / "start.yaml", [f"output_dir={folder}"]))
    return folder


@pytest.fixture(scope="module")
def server(start: Path) -> Iterator[VllmServer]:
    python = vllm_python()
    assert python is not None
    arguments = ("--dtype", "float32", "--max-model-len", "256")
    arguments += ("--enable-lora", "--max-lora-rank", "16")
    running = VllmServer(python, start / "sft/model", *arguments)
    yield running
    running.close()


def answers(model: Path, start: Path, server: VllmServer, out: Path) -> list[list[float]]:
    """True rewards of four answers to each unseen prompt, sampled by the server."""
    settings = SampleSettings(
        model=str(model),
        dataset=str(start / "world/test_prompts.jsonl"),
        output_dir=str(out),
        num_responses=4,
        max_new_tokens=48,
        sampler=SamplerSettings(kind="vllm", url=server.url),
    )
    for _ in sample(settings):
        pass
    return rewards(out / "responses.jsonl")


def rewards(path: Path) -> list[list[float]]:
    rows = read_responses(path)
    return [[true_reward(row.prompt, r.text) for r in row.responses] for row in rows]


def assert_better(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]]) -> None:
    """The mean gain, paired by prompt, is more than five of its standard errors."""
    gains = [mean(a) - mean(b) for a, b in zip(after, before, strict=True)]
    error = stdev(gains) / math.sqrt(len(gains))
    print(f"gain {mean(gains):.3f} ± {error:.3f} from {mean(map(mean, before)):.3f}")
    assert mean(gains) > 5 * error
    assert mean(gains) > 0.05


def served_adapters(server: VllmServer) -> list[str]:
    import urllib.request

    with urllib.request.urlopen(f"{server.url}/v1/models", timeout=10) as answer:
        return [m["id"] for m in json.load(answer)["data"] if m.get("parent")]


def test_ppo_learns_the_true_reward(start: Path, server: VllmServer, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "model": start / "sft/model",
        "dataset": start / "world/train_prompts.jsonl",
        "output_dir": tmp_path / "ppo",
        "rewards": [{"kind": "world"}],
        "sampler": {"kind": "vllm", "url": server.url},
        "lora": {"r": 16},
        "per_device_train_batch_size": 96,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "max_new_tokens": 48,
        "max_length": 256,
        "max_steps": 20,
        "learning_rate": 1e-3,
        "beta": 0.02,
    }
    run_stage(single_stage("train", "ppo", overrides=[f"{k}={v}" for k, v in settings.items()]))
    rows = read_metrics(tmp_path / "ppo/metrics.jsonl")
    assert len(rows) == 20
    # The samples are those of the policy, which has moved away from the served model.
    assert all(abs(row["sampler/mismatch_kl"]) < 1e-3 for row in rows)  # nats a token, both fp32
    assert all(abs(row["sampler/weight_mean"] - 1) < 0.01 for row in rows)
    assert rows[-1]["objective/kl"] > 0.3  # nats a response
    before = answers(start / "sft/model", start, server, tmp_path / "before")
    assert_better(answers(tmp_path / "ppo/model", start, server, tmp_path / "after"), before)
    assert served_adapters(server) == []


def test_rounds_of_dpo_learn_the_true_reward(
    start: Path, server: VllmServer, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "model": start / "sft/model",
        "dataset": start / "world/train_prompts.jsonl",
        "eval_dataset": start / "world/test_prompts.jsonl",
        "output_dir": tmp_path / "rounds",
        "rounds": 2,
        "prompts_per_round": 300,
        "num_responses": 4,
        "eval_responses": 4,
        "max_new_tokens": 48,
        "form": "rankings",
        "sampler": {"kind": "vllm", "url": server.url},
        "train.lora.r": 16,
        "train.learning_rate": 2e-3,
        "train.per_device_train_batch_size": 16,
        "train.max_length": 256,
        "train.beta": 0.3,
    }
    run_stage(single_stage("iterate", overrides=[f"{k}={v}" for k, v in settings.items()]))
    first, second, third = (
        rewards(tmp_path / f"rounds/round-{n}/answers/responses.jsonl") for n in range(3)
    )
    assert_better(second, first)
    assert_better(third, first)
    assert served_adapters(server) == []
    rows = json.loads((tmp_path / "rounds/rounds.json").read_text())["rounds"]
    # Each model finds its answers likelier than the first model does: they are not the base's.
    assert all(row["kl"]["low"] > 0.2 for row in rows[1:])
    config = json.loads((tmp_path / "rounds/model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(start / "sft/model")
