"""Sampling: log-probs, distributions, and independence from the batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import (
    AutoModelForCausalLM,
    JambaConfig,
    Lfm2Config,
    Mamba2Config,
    MambaConfig,
)

from accord.lm.attention import decoding
from accord.lm.forward import check_packing, response_logps
from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.respond.local import shared
from accord.respond.local.sampler import local_sampler
from accord.respond.protocol import Sample, SamplingSettings
from accord.respond.text import response_text
from tests.lm.models import CONFIGS, VOCABULARY, causal

EOS = 2
# Far apart in length, one beyond the sliding windows (6), so that there is much padding.
PROMPTS = [
    (5, 9, 11, 4, 60, 61, 33, 7, 8, 90, 12),
    (3,),
    (7, 8, 9),
    (44, 41, 17, 23, 5, 6),
]


class EosOnly:
    """A tokenizer that knows which token ends a response."""

    def __init__(self, eos: int | None = EOS) -> None:
        self.eos_token_id = eos


def model_of(config: Any, *, eos: int | None = EOS, sharp: float = 6.0) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    return ready(model, eos=eos, sharp=sharp)


def ready(model: Any, *, eos: int | None = EOS, sharp: float = 6.0) -> LanguageModel:
    """Matrices scaled up, so that the distributions are far from uniform."""
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(sharp)
    lm = LanguageModel(model, EosOnly(eos), "toy")
    check_packing(lm)
    return lm


def sample(
    lm: LanguageModel,
    prompts: list[tuple[int, ...]] | None = None,
    *,
    seed: int = 0,
    streams: list[int] | None = None,
    **settings: Any,
) -> list[list[Sample]]:
    prompts = PROMPTS if prompts is None else prompts
    streams = list(range(len(prompts))) if streams is None else streams
    chosen = SamplingSettings(**{"num_responses": 3, "max_new_tokens": 8, **settings})
    return local_sampler(lm)(prompts, chosen, seed=seed, streams=streams)


def tokens_of(found: list[list[Sample]]) -> list[list[tuple[int, ...]]]:
    return [[s.tokens for s in own] for own in found]


def assert_log_probs_are_the_models(
    lm: LanguageModel, found: list[list[Sample]], temperature: float = 1.0
) -> None:
    for prompt, own in zip(PROMPTS, found, strict=True):
        batch = pack([PromptGroup(prompt, tuple(s.tokens for s in own))])
        with torch.no_grad():
            expected = response_logps(lm, batch, temperature=temperature).tolist()
        assert [x for s in own for x in s.logps] == pytest.approx(expected, abs=1e-4)


STATES: dict[str, Any] = {
    "mamba": MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2, pad_token_id=0
    ),
    "mamba2": Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        pad_token_id=0,
    ),
    "jamba": JambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=4,
        expert_layer_offset=3,
        num_experts=2,
        mamba_d_state=4,
        pad_token_id=0,
    ),
    "lfm2": Lfm2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        pad_token_id=0,
    ),
}


@pytest.mark.parametrize("name", [*CONFIGS, *STATES])
def test_log_probs_are_those_of_training(name: str) -> None:
    lm = model_of(STATES[name], sharp=2.0) if name in STATES else ready(causal(name))
    found = sample(lm)
    assert_log_probs_are_the_models(lm, found)
    assert len({s.tokens for own in found for s in own}) > 6  # not all the same


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_log_probs_are_tempered(name: str) -> None:
    lm = ready(causal(name))
    assert_log_probs_are_the_models(lm, sample(lm, temperature=1.7), temperature=1.7)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2"])
def test_responses_do_not_depend_on_the_batch(name: str) -> None:
    lm = ready(causal(name))
    expected = tokens_of(sample(lm))
    for batch_size in (1, 3, 7):
        assert tokens_of(sample(lm, batch_size=batch_size)) == expected
    backwards = sample(lm, PROMPTS[::-1], streams=[3, 2, 1, 0])
    assert tokens_of(backwards)[::-1] == expected
    alone = [tokens_of(sample(lm, [prompt], streams=[i]))[0] for i, prompt in enumerate(PROMPTS)]
    assert alone == expected


def test_a_seed_and_a_stream_give_other_draws() -> None:
    lm = ready(causal("llama"))
    expected = tokens_of(sample(lm))
    assert tokens_of(sample(lm)) == expected
    assert tokens_of(sample(lm, seed=1)) != expected
    assert tokens_of(sample(lm, streams=[4, 5, 6, 7])) != expected
    same = tokens_of(sample(lm, [PROMPTS[1]] * 2, streams=[0, 1]))
    assert same[0] != same[1]


def test_the_first_of_k_responses_is_that_of_k_smaller() -> None:
    # A stream's draws fill (K, max_new_tokens) row by row, so a smaller K takes its first rows.
    lm = ready(causal("llama"))
    three, one = tokens_of(sample(lm)), tokens_of(sample(lm, num_responses=1))
    assert [own[:1] for own in three] == one


def naive(
    lm: LanguageModel, prompt: tuple[int, ...], seed: int, stream: int, k: int, new: int
) -> list[tuple[int, ...]]:
    """K separate samplings without any cache, with the draws that a stream is documented to have:
    a Philox generator keyed by seed and stream, one row of `new` uniforms a response."""
    uniforms = np.random.Generator(np.random.Philox(key=[seed, stream])).random((k, new))
    found = []
    for row in uniforms:
        tokens: list[int] = []
        for u in row:
            ids = torch.tensor([[*prompt, *tokens]])
            with torch.no_grad():
                p = lm.model(input_ids=ids, use_cache=False).logits[0, -1].double().softmax(-1)
            tokens.append(int((p.cumsum(0) > u * float(p.sum())).nonzero()[0]))
            if tokens[-1] == EOS:
                break
        found.append(tuple(tokens))
    return found


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_one_prefill_gives_what_separate_samplings_give(name: str) -> None:
    lm = ready(causal(name))
    found = tokens_of(sample(lm, seed=5, streams=[10, 11, 12, 13]))
    for i, prompt in enumerate(PROMPTS):
        assert found[i] == naive(lm, prompt, 5, 10 + i, 3, 8)


def test_a_response_ends_at_its_first_eos() -> None:
    lm = ready(causal("llama"))
    with torch.no_grad():
        lm.model.lm_head.weight[EOS] = lm.model.lm_head.weight.mean(0)  # a likely token
    found = [s for own in sample(lm, num_responses=16, max_new_tokens=30) for s in own]
    lengths = Counter(len(s.tokens) for s in found if s.finished)
    assert len(lengths) > 3  # they leave the batch at different steps
    assert any(not s.finished for s in found)
    for s in found:
        assert len(s.tokens) == len(s.logps)
        assert s.finished == (s.tokens[-1] == EOS)
        assert EOS not in s.tokens[:-1]
        assert s.finished or len(s.tokens) == 30
    assert_log_probs_are_the_models(lm, sample(lm, num_responses=16, max_new_tokens=30))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gpt-oss"])
def test_rows_that_leave_the_batch_change_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = ready(causal(name))
    with torch.no_grad():
        lm.model.lm_head.weight[EOS] = lm.model.lm_head.weight.mean(0)
    found = {}
    for share in (0.0, 0.5, 1.0):  # whenever one has ended, at half, and all together
        monkeypatch.setattr(shared, "LEAVE_AT", share)
        own = sample(lm, num_responses=8, max_new_tokens=24)
        assert_log_probs_are_the_models(lm, own)
        found[share] = tokens_of(own)
    assert found[0.0] == found[0.5] == found[1.0]
    lengths = {len(t) for own in found[0.0] for t in own}
    assert len(lengths) > 2


def test_an_eos_at_the_last_step_is_finished() -> None:
    lm = ready(causal("llama"))
    (own,) = sample(lm, [PROMPTS[0]], num_responses=200, max_new_tokens=1, temperature=3.0)
    ended = [s for s in own if s.tokens == (EOS,)]
    assert ended
    assert all(s.finished for s in ended)
    assert not any(s.finished for s in own if s.tokens != (EOS,))


def test_no_prompts_have_no_responses() -> None:
    assert sample(ready(causal("llama")), []) == []


def test_without_eos_nothing_ends_early() -> None:
    found = sample(ready(causal("llama"), eos=None), max_new_tokens=5)
    assert all(len(s.tokens) == 5 and not s.finished for own in found for s in own)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    lm = ready(causal("llama"), eos=None)
    found = sample(lm, temperature=0, num_responses=2)
    assert_log_probs_are_the_models(lm, found)
    for prompt, own in zip(PROMPTS, found, strict=True):
        assert own[0] == own[1]
        ids = list(prompt)
        for token in own[0].tokens:
            with torch.no_grad():
                assert token == int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """The probability of counts so far from p; rare tokens are put together."""
    expected = p / p.sum() * counts.sum()
    common = expected >= 5
    found = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0  # none may be left over, and none of no probability drawn
    assert found[~keep].sum() == 0
    return float(stats.chisquare(found[keep], wanted[keep]).pvalue)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.6)])
def test_frequencies_are_the_models(temperature: float, top_p: float) -> None:
    # The first token of 4,000 responses. At a fixed seed the test is deterministic; p > 0.001.
    lm = ready(causal("llama"), sharp=3.0)
    (own,) = sample(
        lm,
        [PROMPTS[0]],
        num_responses=4000,
        max_new_tokens=1,
        temperature=temperature,
        top_p=top_p,
        batch_size=4000,
    )
    counts = np.bincount([s.tokens[0] for s in own], minlength=VOCABULARY)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double()
    p = (logits / temperature).softmax(-1).numpy()
    if top_p < 1:  # the fewest likeliest tokens whose mass reaches top_p
        order = np.argsort(-p)
        needed = int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1
        cut = np.zeros_like(p)
        cut[order[:needed]] = p[order[:needed]]
        p = cut
        assert 2 < needed < VOCABULARY
    assert chi_square(counts, p) > 1e-3


def test_second_tokens_follow_the_first() -> None:
    # P(second | first = f) for the commonest first token, at a fixed seed.
    lm = ready(causal("llama"), eos=None)
    (own,) = sample(lm, [PROMPTS[2]], num_responses=6000, max_new_tokens=2, batch_size=6000, seed=2)
    first = Counter(s.tokens[0] for s in own).most_common(1)[0][0]
    counts = np.bincount([s.tokens[1] for s in own if s.tokens[0] == first], minlength=VOCABULARY)
    with torch.no_grad():
        ids = torch.tensor([[*PROMPTS[2], first]])
        p = lm.model(input_ids=ids).logits[0, -1].double().softmax(-1).numpy()
    assert counts.sum() > 200
    assert chi_square(counts, p) > 1e-3


def test_checkpointing_changes_no_response() -> None:
    # Checkpointed layers drop their key-value memory in training mode.
    lm = ready(causal("llama"))
    expected = sample(lm)
    lm.enable_gradient_checkpointing()
    assert tokens_of(sample(lm)) == tokens_of(expected)
    assert lm.model.training  # as it was


def test_few_places_make_no_difference() -> None:
    # Three places for 8 responses to each of 4 prompts: rows end and others take their places, a
    # prompt's responses begin at many steps, and prompts come and go.
    lm = ready(causal("llama"))
    with torch.no_grad():
        lm.model.lm_head.weight[EOS] = lm.model.lm_head.weight.mean(0)
    expected = sample(lm, num_responses=8, max_new_tokens=24)
    found = sample(lm, num_responses=8, max_new_tokens=24, batch_size=3)
    assert tokens_of(found) == tokens_of(expected)
    assert len({len(s.tokens) for own in found for s in own}) > 4
    assert_log_probs_are_the_models(lm, found)


@pytest.mark.parametrize("k", [1, 3])
def test_memory_grows_with_what_is_written(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = ready(causal("gemma2"))
    expected = tokens_of(sample(lm, num_responses=k, max_new_tokens=12))
    monkeypatch.setattr(decoding, "INITIAL_CAPACITY", 2)
    monkeypatch.setattr(shared, "PREFILL_TOKENS", 7)
    monkeypatch.setattr(shared, "HEAD_ROWS", 2)
    found = sample(lm, num_responses=k, max_new_tokens=12)
    assert tokens_of(found) == expected
    assert_log_probs_are_the_models(lm, found)


def test_a_prompt_is_read_once() -> None:
    # The embedding sees each prompt token once, whatever K is, and each drawn token but the last.
    lm = ready(causal("llama"), eos=None)
    seen: list[int] = []
    lm.backbone.embed_tokens.register_forward_hook(lambda m, ids, out: seen.append(ids[0].numel()))
    sample(lm, num_responses=5, max_new_tokens=4)
    assert sum(seen) == sum(map(len, PROMPTS)) + len(PROMPTS) * 5 * 3


def words(ids: Any, skip_special_tokens: bool) -> str:
    """Token n reads " n"; the third of every three has no blank, so it joins what precedes."""
    return "".join(str(i) if i % 3 == 0 else f" {i}" for i in ids)


def with_words(lm: LanguageModel) -> LanguageModel:
    lm.tokenizer.decode = words
    return lm


@pytest.mark.parametrize("shares", [True, False])
def test_a_stop_string_ends_a_response(shares: bool) -> None:
    lm = with_words(ready(causal("llama"), eos=None))
    lm.shares_prefixes = shares
    whole = sample(lm, num_responses=16, max_new_tokens=12)
    found = sample(lm, num_responses=16, max_new_tokens=12, stop=("1 ", "77"))
    stopped = 0
    for all_of_it, cut in zip(
        (s for own in whole for s in own), (s for own in found for s in own), strict=True
    ):
        # By the definition: the shortest beginning whose text holds a stop string.
        ends = [
            n
            for n in range(1, 13)
            if any(s in words(all_of_it.tokens[:n], True) for s in ("1 ", "77"))
        ]
        length = ends[0] if ends else 12
        assert cut.tokens == all_of_it.tokens[:length]
        assert len(cut.logps) == length
        assert cut.finished == bool(ends)
        assert (cut.stop is not None) == bool(ends)
        text = response_text(cut, lm.tokenizer)
        assert "77" not in text
        assert "1 " not in text
        assert words(cut.tokens, True).startswith(text + (cut.stop or ""))
        stopped += bool(ends)
    assert 0 < stopped < 64


def test_weights_are_laid_out_only_while_sampling() -> None:
    lm = ready(causal("llama").bfloat16())
    linear = lm.backbone.layers[0].mlp.up_proj
    x = torch.randn(1, 5, 32).bfloat16()
    plain = linear(x)
    with torch.no_grad(), prepacked_linears(lm, 8) as head:
        assert torch.equal(linear(x), plain)
        assert torch.equal(head.logits(x[0]), lm.head.logits(x[0]))
        if head.product is None:
            pytest.skip("no bf16 products of oneDNN on this machine")
        assert "forward" in vars(linear)
        assert torch.equal(linear(x.float().bfloat16()), plain)
    assert "forward" not in vars(linear)
    with pytest.raises(RuntimeError, match="stop here"), torch.no_grad(), prepacked_linears(lm, 8):
        raise RuntimeError("stop here")
    assert "forward" not in vars(linear)


def test_long_bf16_responses_are_those_of_the_plain_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = ready(causal("llama").bfloat16(), sharp=3.0)
    found = sample(lm, max_new_tokens=20)
    monkeypatch.setattr(shared, "LONG", 1000)
    assert tokens_of(sample(lm, max_new_tokens=20)) == tokens_of(found)


def test_bf16_samples() -> None:
    lm = ready(causal("llama"))
    lm.precision = "bf16"
    found = sample(lm)
    with torch.no_grad():
        for prompt, own in zip(PROMPTS, found, strict=True):
            batch = pack([PromptGroup(prompt, tuple(s.tokens for s in own))])
            again = response_logps(lm, batch)
            sampled = torch.tensor([x for s in own for x in s.logps])
            assert float((again - sampled).abs().max()) < 0.3
