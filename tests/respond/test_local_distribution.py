"""Sampled tokens: their log-probs and their frequencies are those of the model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from tests.lm.models import CONFIGS, STATE_SPACE_CONFIGS, VOCABULARY, causal
from tests.respond.local_sampling import (
    EOS,
    PROMPTS,
    assert_log_probs_are_the_models,
    make_lm,
    sample,
    token_ids,
)


def lm_from_config(config: Any, *, eos: int | None = EOS, sharp: float = 6.0) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    return make_lm(model, eos=eos, sharp=sharp)


@pytest.mark.parametrize("name", [*CONFIGS, *STATE_SPACE_CONFIGS])
def test_log_probs_are_those_of_training(name: str) -> None:
    lm = (
        lm_from_config(STATE_SPACE_CONFIGS[name], sharp=2.0)
        if name in STATE_SPACE_CONFIGS
        else make_lm(causal(name))
    )
    sampled = sample(lm)
    assert_log_probs_are_the_models(lm, sampled)
    assert len({s.tokens for samples in sampled for s in samples}) > 6  # not all the same


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_log_probs_are_tempered(name: str) -> None:
    lm = make_lm(causal(name))
    assert_log_probs_are_the_models(lm, sample(lm, temperature=1.7), temperature=1.7)


def sample_naively(
    lm: LanguageModel, prompt: tuple[int, ...], seed: int, stream: int, k: int, new: int
) -> list[tuple[int, ...]]:
    """K separate responses without any cache, with the documented draws of a stream: a Philox
    generator keyed by seed and stream, one row of `new` uniform numbers per response."""
    uniforms = np.random.Generator(np.random.Philox(key=[seed, stream])).random((k, new))
    responses = []
    for row in uniforms:
        tokens: list[int] = []
        for u in row:
            ids = torch.tensor([[*prompt, *tokens]])
            with torch.no_grad():
                p = lm.model(input_ids=ids, use_cache=False).logits[0, -1].double().softmax(-1)
            tokens.append(int((p.cumsum(0) > u * float(p.sum())).nonzero()[0]))
            if tokens[-1] == EOS:
                break
        responses.append(tuple(tokens))
    return responses


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_one_prefill_gives_the_same_as_separate_responses(name: str) -> None:
    lm = make_lm(causal(name))
    responses = token_ids(sample(lm, seed=5, streams=[10, 11, 12, 13]))
    for i, prompt in enumerate(PROMPTS):
        assert responses[i] == sample_naively(lm, prompt, 5, 10 + i, 3, 8)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    lm = make_lm(causal("llama"), eos=None)
    sampled = sample(lm, temperature=0, num_responses=2)
    assert_log_probs_are_the_models(lm, sampled)
    for prompt, samples in zip(PROMPTS, sampled, strict=True):
        assert samples[0] == samples[1]
        ids = list(prompt)
        for token in samples[0].tokens:
            with torch.no_grad():
                assert token == int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def chi_square_p_value(counts: np.ndarray, p: np.ndarray) -> float:
    """The p-value of counts under probabilities p; rare tokens are pooled."""
    expected = p / p.sum() * counts.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    pooled = np.append(expected[common], expected[~common].sum())
    is_possible = pooled > 0  # no rare tokens may remain, and none of no probability be drawn
    assert observed[~is_possible].sum() == 0
    return float(stats.chisquare(observed[is_possible], pooled[is_possible]).pvalue)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
def test_frequencies_are_the_models(temperature: float, top_p: float) -> None:
    # The first token of 4,000 responses. At a fixed seed the test is deterministic; p > 0.001.
    lm = make_lm(causal("llama"), sharp=3.0)
    (samples,) = sample(
        lm,
        [PROMPTS[0]],
        num_responses=4000,
        max_new_tokens=1,
        temperature=temperature,
        top_p=top_p,
        batch_size=4000,
    )
    counts = np.bincount([s.tokens[0] for s in samples], minlength=VOCABULARY)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double()
    p = (logits / temperature).softmax(-1).numpy()
    if top_p < 1:  # the fewest likeliest tokens whose mass reaches top_p
        order = np.argsort(-p)
        needed = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
        truncated = np.zeros_like(p)
        truncated[order[:needed]] = p[order[:needed]]
        p = truncated
        assert 2 < needed < VOCABULARY
    assert chi_square_p_value(counts, p) > 1e-3


def test_second_tokens_follow_the_first() -> None:
    # P(second | first = f) for the commonest first token, at a fixed seed.
    lm = make_lm(causal("llama"), eos=None)
    (samples,) = sample(
        lm, [PROMPTS[2]], num_responses=6000, max_new_tokens=2, batch_size=6000, seed=2
    )
    first = Counter(s.tokens[0] for s in samples).most_common(1)[0][0]
    seconds = [s.tokens[1] for s in samples if s.tokens[0] == first]
    counts = np.bincount(seconds, minlength=VOCABULARY)
    with torch.no_grad():
        ids = torch.tensor([[*PROMPTS[2], first]])
        p = lm.model(input_ids=ids).logits[0, -1].double().softmax(-1).numpy()
    assert counts.sum() > 200
    assert chi_square_p_value(counts, p) > 1e-3


def test_bf16_log_probs_are_close_to_those_of_training() -> None:
    lm = make_lm(causal("llama"))
    lm.precision = "bf16"
    sampled = sample(lm)
    with torch.no_grad():
        for prompt, samples in zip(PROMPTS, sampled, strict=True):
            batch = pack([PromptGroup(prompt, tuple(s.tokens for s in samples))])
            recomputed = response_logps(lm, batch)
            logps = torch.tensor([x for s in samples for x in s.logps])
            assert float((recomputed - logps).abs().max()) < 0.3
