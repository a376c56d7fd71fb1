"""vLLM in accord's own process, with an engine that samples from a copy of the model."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accord.errors import SettingsError, WorkError
from accord.lm.checkpoint_weights import checkpoint_weights
from accord.lm.forward import response_logps
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.vllm.building import EngineModel, generators_restored
from accord.respond.vllm.colocated import ColocatedSampler
from accord.settings.sampling import SamplerSettings
from tests.lm.toys import save_toy, with_adapters
from tests.respond.fake_engine import FakeEngine

PROMPTS = [(5, 6, 7), (9, 10)]
LOAD = ["wake weights", "load weights", "wake kv_cache", "reset cache"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_toy(tmp_path_factory.mktemp("colocated") / "llama")


def open_sampler(
    lm: LanguageModel, engine: FakeEngine, *, level: int = 2, temperature: float = 1.0
) -> ColocatedSampler:
    settings = SamplerSettings(kind="vllm", mode="colocate", sleep_level=level)
    model = EngineModel(lm.name, "fp32", lm.eos_ids, temperature=temperature)
    weights = partial(checkpoint_weights, lm)
    return ColocatedSampler(settings, model, weights=weights, sleeps=True, build=engine.build)


def sample(sampler: ColocatedSampler, seed: int = 0, **values: Any) -> list[list[Sample]]:
    settings = SamplingSettings(**{"num_responses": 3, "max_new_tokens": 8, **values})
    return sampler(PROMPTS, settings, seed=seed, streams=range(2))


def test_the_engine_sleeps_except_while_it_samples(folder: str) -> None:
    calls: list[str] = []
    sampler = open_sampler(load_causal(folder, device="cpu"), FakeEngine(calls))
    assert calls == ["build", "sleep 2"]
    calls.clear()
    sampler.publish()
    sample(sampler)
    assert calls == [*LOAD, "generate", "sleep 2"]
    calls.clear()
    sample(sampler)  # level 2 has lost the weights, which nobody published again
    assert calls == [*LOAD, "generate", "sleep 2"]
    sampler.close()
    assert calls[-1] == "close"


def test_at_level_1_the_weights_come_back(folder: str) -> None:
    calls: list[str] = []
    sampler = open_sampler(load_causal(folder, device="cpu"), FakeEngine(calls), level=1)
    sampler.publish()
    first = sample(sampler)
    calls.clear()
    assert sample(sampler) == first
    assert calls == ["wake all", "generate", "sleep 1"]


@pytest.mark.parametrize(("level", "can_sleep"), [(2, False), (0, True)])
def test_without_sleep_the_engine_stays_awake(
    level: int, can_sleep: bool, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    engine = FakeEngine(calls, can_sleep=can_sleep)
    with caplog.at_level(logging.INFO):
        sampler = open_sampler(load_causal(folder, device="cpu"), engine, level=level)
    assert ("vLLM can't sleep on this device" in caplog.text) == (level == 2)
    sampler.publish()
    sample(sampler)
    assert calls == ["build", "load weights", "reset cache", "generate"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_log_probs_are_those_of_the_published_weights(
    architecture: str, lora: bool, tmp_path: Path
) -> None:
    lm = load_causal(save_toy(tmp_path / "model", architecture), device="cpu")
    plain = load_causal(lm.name, device="cpu")
    if lora:
        lm = with_adapters(lm, seed=1)
    else:
        with torch.no_grad():
            for parameter in lm.model.parameters():
                parameter.mul_(1.1)
    sampler = open_sampler(lm, FakeEngine([]), temperature=0.7)
    sampler.publish()
    sampled = sample(sampler, temperature=0.7)
    assert not any(s.exact for group in sampled for s in group)
    groups = zip(PROMPTS, sampled, strict=True)
    batch = pack([PromptGroup(prompt, tuple(s.tokens for s in group)) for prompt, group in groups])
    logps = torch.tensor([x for group in sampled for s in group for x in s.logps])
    with torch.no_grad():
        expected = response_logps(lm, batch, temperature=0.7)
        others = response_logps(plain, batch, temperature=0.7)
    torch.testing.assert_close(logps, expected, atol=2e-4, rtol=0)
    assert (logps - others).abs().max() > 0.05


def test_a_seed_repeats_the_responses_and_disturbs_no_generator(folder: str) -> None:
    sampler = open_sampler(load_causal(folder, device="cpu"), FakeEngine([]))
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first = sample(sampler, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)  # type: ignore[index,arg-type]
    torch.rand(3)
    np.random.rand(1000)
    assert sample(sampler, seed=1) == first
    assert sample(sampler, seed=2) != first


def test_the_engine_ends_responses_where_the_local_one_does(folder: str) -> None:
    lm, engine = load_causal(folder, device="cpu"), FakeEngine([])
    sample(open_sampler(lm, engine), stop=("the",))
    parameters = engine.parameters
    assert parameters["ignore_eos"]
    assert parameters["stop_token_ids"] == sorted(lm.eos_ids)
    assert (parameters["stop"], parameters["detokenize"]) == (["the"], True)
    assert (parameters["top_k"], parameters["top_p"], parameters["min_p"]) == (0, 1.0, 0.0)
    assert "seed" not in parameters


def test_greedy_responses_are_asked_for_once(folder: str) -> None:
    engine = FakeEngine([])
    groups = sample(open_sampler(load_causal(folder, device="cpu"), engine), temperature=0.0)
    assert engine.parameters["n"] == 1
    assert [len(group) for group in groups] == [3, 3]
    assert all(len(set(group)) == 1 for group in groups)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("device-side assert"), "RuntimeError: device-side assert.* it resumes"),
        (torch.OutOfMemoryError("out"), r"Lower sampler\.gpu_memory_utilization"),
    ],
)
def test_an_engine_that_fails_is_not_called_again(
    error: Exception, remedy: str, folder: str
) -> None:
    calls: list[str] = []
    engine = FakeEngine(calls)
    sampler = open_sampler(load_causal(folder, device="cpu"), engine)
    sampler.publish()
    engine.fails = error
    with pytest.raises(WorkError, match=f"is dead: it could not sample.*{remedy}"):
        sample(sampler)
    calls.clear()
    for call in (sampler.publish, partial(sample, sampler)):
        with pytest.raises(WorkError, match="is dead"):
            call()
    sampler.close()
    assert calls == ["close"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 94}, "may have 96 tokens in the vLLM engine, and 97 are asked for"),
        ({"temperature": 0.5}, "built for log-probs at temperature=1, and 0.5"),
    ],
)
def test_what_the_engine_is_not_built_for(
    values: dict[str, Any], message: str, folder: str
) -> None:
    sampler = open_sampler(load_causal(folder, device="cpu"), FakeEngine([]))
    with pytest.raises(SettingsError, match=message):
        sample(sampler, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "local", "mode": "colocate"}, "`mode` does nothing with `kind=local`"),
        ({"kind": "vllm"}, "With `mode=colocate` vLLM runs in accord's own process"),
        ({"kind": "vllm", "mode": "colocate", "url": "http://x"}, "`url` does nothing"),
        (
            {"kind": "vllm", "url": "http://x", "sleep_level": 1},
            "`sleep_level` does nothing with `mode=server`",
        ),
    ],
)
def test_settings_of_another_engine(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerSettings(**values)


def test_numpys_numbers_after_what_seeds_them() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    with generators_restored():
        np.random.seed(0)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index,arg-type]


def test_an_engine_that_does_not_end_is_logged_and_not_ended_again(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    engine = FakeEngine(calls)
    sampler = open_sampler(load_causal(folder, device="cpu"), engine)
    engine.fails = RuntimeError("the core is dead")
    sampler.close()
    sampler.close()
    assert calls.count("close") == 1
    assert "vLLM did not end cleanly (RuntimeError: the core is dead)" in caplog.text


def test_log_probs_after_truncation_are_said_once(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = open_sampler(load_causal(folder, device="cpu"), FakeEngine([]), temperature=0.7)
    for _ in range(2):
        sampler._check(PROMPTS, SamplingSettings(1, 8, 0.7, top_k=5))
    assert caplog.text.count("log-probs after top-k") == 1
