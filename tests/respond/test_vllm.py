"""Sampling from a real vLLM server; needs ACCORD_VLLM_PYTHON, a Python with vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.workers.vllm_server import VllmServer, vllm_python
from scipy import stats

from accord.errors import SettingsError
from accord.learn.online.train import train_online
from accord.lm.adapters.lora import add_adapters
from accord.lm.forward import response_logps
from accord.lm.load import load_causal, save_model
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.pipeline.stages.sample import sample as sample_stage
from accord.respond.build import make_sampler
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.vllm.sampler import VllmSampler
from accord.settings.sampling import SamplerSettings
from accord.settings.stage_kinds import METHOD_SETTINGS
from accord.settings.stages import SampleSettings
from accord.settings.training import LoraSettings
from tests.respond.vllm_toy import EOS, VOCABULARY, save_word_model

pytestmark = pytest.mark.skipif(vllm_python() is None, reason="ACCORD_VLLM_PYTHON is not set")
PROMPTS = [(5, 6, 7), (9, 10), (20, 30, 40, 50, 60, 70, 80)]
TOLERANCE = 2e-3  # nats, both in fp32 with different kernels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_word_model(tmp_path_factory.mktemp("vllm") / "model"))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[VllmServer]:
    python = vllm_python()
    assert python is not None
    arguments = ("--dtype", "float32", "--max-model-len", "128", "--served-model-name", "toy")
    arguments += ("--enable-lora", "--max-lora-rank", "8")
    process = VllmServer(python, model, *arguments, "--logprobs-mode", "processed_logprobs")
    yield process
    process.close()


@pytest.fixture
def sampler(server: VllmServer) -> Iterator[VllmSampler]:
    vllm_sampler = make_sampler(SamplerSettings(kind="vllm", url=server.url), None)
    assert isinstance(vllm_sampler, VllmSampler)
    yield vllm_sampler
    vllm_sampler.close()


def generate(sampler: VllmSampler, prompts: list[tuple[int, ...]], **settings: object) -> object:
    sampling = SamplingSettings(**{"num_responses": 6, "max_new_tokens": 12, **settings})  # type: ignore[arg-type]
    return sampler(prompts, sampling, seed=0, streams=range(len(prompts)))


def assert_log_probs_are_those_of(
    lm: LanguageModel, sampled: list[list[Sample]], temperature: float = 1.0
) -> None:
    for prompt, samples in zip(PROMPTS, sampled, strict=True):
        batch = pack([PromptGroup(prompt, tuple(s.tokens for s in samples))])
        with torch.no_grad():
            expected = response_logps(lm, batch, temperature=temperature).tolist()
        assert [x for s in samples for x in s.logps] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_local_model(
    sampler: VllmSampler, model: Path, temperature: float
) -> None:
    sampled = generate(sampler, PROMPTS, temperature=temperature, num_responses=40)
    assert_log_probs_are_those_of(load_causal(str(model), device="cpu"), sampled, temperature)
    samples = [s for group in sampled for s in group]
    assert not any(s.exact for s in samples)
    assert len({s.tokens for s in samples}) > 20
    ended = [s for s in samples if s.finished]
    assert 0 < len(ended) < len(samples)
    assert all(s.finished == (s.tokens[-1] == EOS) for s in samples)  # EOS is among the tokens
    assert all(len(s.tokens) == 12 for s in samples if not s.finished)


def test_frequencies_are_the_models(sampler: VllmSampler, model: Path) -> None:
    # Over the whole vocabulary, though the model's generation_config.json says top_k=2.
    (samples,) = generate(
        sampler, PROMPTS[:1], num_responses=1500, max_new_tokens=1, batch_size=1500
    )
    counts = np.bincount([s.tokens[0] for s in samples], minlength=VOCABULARY)
    lm = load_causal(str(model), device="cpu")
    with torch.no_grad():
        p = lm.model(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1].double().softmax(-1).numpy()
    expected = p / p.sum() * len(samples)
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    pooled = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(observed, pooled).pvalue > 1e-6  # no seed: each run draws others


def test_a_published_adapter_is_sampled_from(
    sampler: VllmSampler, model: Path, tmp_path: Path
) -> None:
    plain = load_causal(str(model), device="cpu")
    for version in range(2):
        lm = add_adapters(
            load_causal(str(model), device="cpu"),
            LoraSettings(r=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
            seed=version,
        )
        with torch.no_grad():
            for name, parameter in lm.trainable().items():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(version))
        save_model(lm, tmp_path / str(version), card="a test")
        sampler.publish(tmp_path / str(version))
        sampled = generate(sampler, PROMPTS)
        assert_log_probs_are_those_of(lm, sampled)
        with pytest.raises(AssertionError):
            assert_log_probs_are_those_of(plain, sampled)


def test_an_adapter_of_too_high_a_rank(sampler: VllmSampler, model: Path, tmp_path: Path) -> None:
    lm = add_adapters(load_causal(str(model), device="cpu"), LoraSettings(r=16), seed=0)
    save_model(lm, tmp_path / "adapter", card="a test")
    with pytest.raises(SettingsError, match=r"--max-lora-rank that is at least lora\.r"):
        sampler.publish(tmp_path / "adapter")
    assert len(generate(sampler, PROMPTS)) == 3  # it still samples from its base model


def test_too_long_a_response_is_refused(sampler: VllmSampler) -> None:
    assert sampler.max_length == 128
    with pytest.raises(SettingsError, match="128 tokens"):
        generate(sampler, PROMPTS, max_new_tokens=500)


def test_the_sample_stage_writes_what_a_server_answers(
    server: VllmServer, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w5 w6"}\n{"prompt": "w9"}\n')
    settings = SampleSettings(
        model=str(model),
        dataset=str(tmp_path / "prompts.jsonl"),
        output_dir=str(tmp_path / "out"),
        num_responses=20,
        max_new_tokens=30,
        stop=["w1"],
        sampler=SamplerSettings(kind="vllm", url=server.url),
    )
    for _ in sample_stage(settings):
        pass
    text = (tmp_path / "out" / "responses.jsonl").read_text()
    assert text.count("\n") == 2
    assert '"finished": true' in text
    from accord.data.write import read_responses

    rows = read_responses(str(tmp_path / "out" / "responses.jsonl"))
    responses = [r for row in rows for r in row.responses]
    assert len(responses) == 40
    assert not any("w1" in r.text or "eos" in r.text for r in responses)


def changed_model(model: Path, folder: Path, seed: int) -> LanguageModel:
    """A whole model of the same shape with other weights, saved in a folder."""
    lm = load_causal(str(model), device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim == 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
    save_model(lm, folder, card="a test")
    return lm


def test_whole_weights_are_sampled_from(
    sampler: VllmSampler, server: VllmServer, model: Path, tmp_path: Path
) -> None:
    plain = load_causal(str(model), device="cpu")
    for version in range(2):
        lm = changed_model(model, tmp_path / str(version), version)
        sampler.publish(tmp_path / str(version))
        sampled = generate(sampler, PROMPTS)
        assert_log_probs_are_those_of(lm, sampled)
        with pytest.raises(AssertionError):
            assert_log_probs_are_those_of(plain, sampled)
    sampler.published.close()
    assert_log_probs_are_those_of(plain, generate(sampler, PROMPTS))


def test_a_killed_server_gets_the_weights_again(
    sampler: VllmSampler, server: VllmServer, model: Path, tmp_path: Path
) -> None:
    lm = changed_model(model, tmp_path / "policy", 3)
    sampler.publish(tmp_path / "policy")
    server.kill()
    server.start()  # and it takes a minute until it answers
    assert_log_probs_are_those_of(lm, generate(sampler, PROMPTS))


@pytest.mark.parametrize("lora", [{"r": 8}, None], ids=["lora", "full"])
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_policy_learns_from_what_the_server_samples(
    method: str, lora: dict[str, int] | None, server: VllmServer, model: Path, tmp_path: Path
) -> None:
    # The server loads each iteration's adapter or weights: otherwise its samples, and so the
    # scores, would not change, and the two engines' log-probs would diverge.
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "w5 w6"}\n{"prompt": "w9 w10"}\n')
    (tmp_path / "mine.py").write_text(
        "def low(prompts, responses):\n"
        "    return [float(sum(w in LOW for w in r.split())) for r in responses]\n"
        "LOW = {f'w{i}' for i in range(3, 50)}\n"
    )
    settings = METHOD_SETTINGS[method](
        model=str(model),
        dataset=str(tmp_path / "prompts.jsonl"),
        output_dir=str(tmp_path / "out"),
        rewards=[{"kind": "python", "function": f"{tmp_path / 'mine.py'}:low"}],
        sampler={"kind": "vllm", "url": server.url},
        lora=lora,
        per_device_train_batch_size=64,
        num_generations=32,
        max_new_tokens=8,
        max_length=32,
        max_steps=10,
        learning_rate=2e-2 if lora else 2e-3,
        lr_scheduler_type="constant",
        missing_eos_penalty=0.0,
        device="cpu",
    )
    rows = [result.metrics for result in train_online(method, settings)]
    # The server has no seed. Each score's error is 0.16; PPO gains 2.2 to 2.8 (locally, six seeds).
    assert rows[-1]["objective/scores"] > rows[0]["objective/scores"] + 1
    for row in rows:
        assert row["sampler/weight_mean"] == pytest.approx(1.0, abs=0.01)
        assert abs(row["sampler/mismatch_kl"]) < 1e-3
    assert not (tmp_path / "out" / "published").exists()
    assert (tmp_path / "out" / "model" / "adapter_config.json").is_file() == bool(lora)
