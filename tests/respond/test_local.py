"""Local sampling: independence from the batch, the ends of responses, and work done once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from accord.lm import packing
from accord.lm.attention import store
from accord.lm.kernels.prepacked import prepacked_linears
from accord.lm.model import LanguageModel
from accord.respond.local import shared_prefix
from accord.respond.text import response_text
from tests.lm.models import causal
from tests.respond.local_sampling import (
    EOS,
    PROMPTS,
    assert_log_probs_are_the_models,
    make_lm,
    sample,
    token_ids,
)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2"])
def test_responses_do_not_depend_on_the_batch(name: str) -> None:
    lm = make_lm(causal(name))
    expected = token_ids(sample(lm))
    for batch_size in (1, 3, 7):
        assert token_ids(sample(lm, batch_size=batch_size)) == expected
    backwards = sample(lm, PROMPTS[::-1], streams=[3, 2, 1, 0])
    assert token_ids(backwards)[::-1] == expected
    alone = [token_ids(sample(lm, [prompt], streams=[i]))[0] for i, prompt in enumerate(PROMPTS)]
    assert alone == expected


def test_another_seed_or_stream_gives_other_draws() -> None:
    lm = make_lm(causal("llama"))
    expected = token_ids(sample(lm))
    assert token_ids(sample(lm)) == expected
    assert token_ids(sample(lm, seed=1)) != expected
    assert token_ids(sample(lm, streams=[4, 5, 6, 7])) != expected
    first, second = token_ids(sample(lm, [PROMPTS[1]] * 2, streams=[0, 1]))
    assert first != second


def test_a_smaller_k_gives_the_first_of_the_responses() -> None:
    # A stream's draws fill (K, max_new_tokens) row by row, so a smaller K takes its first rows.
    lm = make_lm(causal("llama"))
    of_three, of_one = token_ids(sample(lm)), token_ids(sample(lm, num_responses=1))
    assert [responses[:1] for responses in of_three] == of_one


def test_a_response_ends_at_its_first_eos() -> None:
    lm = make_lm(causal("llama"))
    with torch.no_grad():
        lm.model.lm_head.weight[EOS] = lm.model.lm_head.weight.mean(0)  # a likely token
    sampled = sample(lm, num_responses=16, max_new_tokens=30)
    samples = [s for of_prompt in sampled for s in of_prompt]
    lengths = Counter(len(s.tokens) for s in samples if s.finished)
    assert len(lengths) > 3  # they are removed from the batch at different steps
    assert any(not s.finished for s in samples)
    for s in samples:
        assert len(s.tokens) == len(s.logps)
        assert s.finished == (s.tokens[-1] == EOS)
        assert EOS not in s.tokens[:-1]
        assert s.finished or len(s.tokens) == 30
    assert_log_probs_are_the_models(lm, sample(lm, num_responses=16, max_new_tokens=30))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gpt-oss"])
def test_removing_finished_rows_changes_no_response(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(causal(name))
    with torch.no_grad():
        lm.model.lm_head.weight[EOS] = lm.model.lm_head.weight.mean(0)
    responses = {}
    for share in (0.0, 0.5, 1.0):  # as soon as a row has finished, at half, and all together
        monkeypatch.setattr(shared_prefix, "COMPACT_AT", share)
        sampled = sample(lm, num_responses=8, max_new_tokens=24)
        assert_log_probs_are_the_models(lm, sampled)
        responses[share] = token_ids(sampled)
    assert responses[0.0] == responses[0.5] == responses[1.0]
    lengths = {len(tokens) for of_prompt in responses[0.0] for tokens in of_prompt}
    assert len(lengths) > 2


def test_an_eos_at_the_last_step_is_finished() -> None:
    lm = make_lm(causal("llama"))
    (samples,) = sample(lm, [PROMPTS[0]], num_responses=200, max_new_tokens=1, temperature=3.0)
    ended = [s for s in samples if s.tokens == (EOS,)]
    assert ended
    assert all(s.finished for s in ended)
    assert not any(s.finished for s in samples if s.tokens != (EOS,))


def test_no_prompts_have_no_responses() -> None:
    assert sample(make_lm(causal("llama")), []) == []


def test_without_eos_nothing_ends_early() -> None:
    sampled = sample(make_lm(causal("llama"), eos=None), max_new_tokens=5)
    assert all(len(s.tokens) == 5 and not s.finished for samples in sampled for s in samples)


def test_gradient_checkpointing_changes_no_response() -> None:
    # Checkpointed layers drop their KV cache in training mode.
    lm = make_lm(causal("llama"))
    expected = sample(lm)
    lm.enable_gradient_checkpointing()
    assert token_ids(sample(lm)) == token_ids(expected)
    assert lm.model.training  # as before


def test_a_small_batch_changes_no_response() -> None:
    # Three rows for 8 responses to each of 4 prompts: waiting responses replace finished rows, a
    # prompt's responses begin at different steps, and prompts are read and removed in between.
    lm = make_lm(causal("llama"))
    with torch.no_grad():
        lm.model.lm_head.weight[EOS] = lm.model.lm_head.weight.mean(0)
    expected = sample(lm, num_responses=8, max_new_tokens=24)
    sampled = sample(lm, num_responses=8, max_new_tokens=24, batch_size=3)
    assert token_ids(sampled) == token_ids(expected)
    assert len({len(s.tokens) for samples in sampled for s in samples}) > 4
    assert_log_probs_are_the_models(lm, sampled)


@pytest.mark.parametrize("k", [1, 3])
def test_the_kv_cache_grows_with_the_responses(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_lm(causal("gemma2"))
    expected = token_ids(sample(lm, num_responses=k, max_new_tokens=12))
    monkeypatch.setattr(store, "INITIAL_CAPACITY", 2)
    monkeypatch.setattr(packing, "FORWARD_TOKENS", 7)
    monkeypatch.setattr(shared_prefix, "LOGITS_ROWS", 2)
    sampled = sample(lm, num_responses=k, max_new_tokens=12)
    assert token_ids(sampled) == expected
    assert_log_probs_are_the_models(lm, sampled)


def test_a_prompt_is_read_once() -> None:
    # Each prompt token passes the embedding once, whatever K is, and each drawn token but the last.
    lm = make_lm(causal("llama"), eos=None)
    embedded: list[int] = []
    lm.backbone.embed_tokens.register_forward_hook(
        lambda module, inputs, output: embedded.append(inputs[0].numel())
    )
    sample(lm, num_responses=5, max_new_tokens=4)
    assert sum(embedded) == sum(map(len, PROMPTS)) + len(PROMPTS) * 5 * 3


def decode_numbers(ids: Any, **options: bool) -> str:
    """Token n decodes to " n", or to "n" where n is a multiple of 3."""
    return "".join(str(i) if i % 3 == 0 else f" {i}" for i in ids)


def with_decoder(lm: LanguageModel) -> LanguageModel:
    lm.tokenizer.decode = decode_numbers
    return lm


@pytest.mark.parametrize("shares_prefixes", [True, False])
def test_a_stop_string_ends_a_response(shares_prefixes: bool) -> None:
    lm = with_decoder(make_lm(causal("llama"), eos=None))
    lm.shares_prefixes = shares_prefixes
    without_stop = sample(lm, num_responses=16, max_new_tokens=12)
    with_stop = sample(lm, num_responses=16, max_new_tokens=12, stop=("1 ", "77"))
    num_stopped = 0
    for full, stopped in zip(
        (s for samples in without_stop for s in samples),
        (s for samples in with_stop for s in samples),
        strict=True,
    ):
        # By the definition: the shortest beginning whose text holds a stop string.
        ends = [
            n
            for n in range(1, 13)
            if any(s in decode_numbers(full.tokens[:n]) for s in ("1 ", "77"))
        ]
        length = ends[0] if ends else 12
        assert stopped.tokens == full.tokens[:length]
        assert len(stopped.logps) == length
        assert stopped.finished == bool(ends)
        assert (stopped.stop is not None) == bool(ends)
        text = response_text(stopped, lm.tokenizer)
        assert "77" not in text
        assert "1 " not in text
        assert decode_numbers(stopped.tokens).startswith(text + (stopped.stop or ""))
        num_stopped += bool(ends)
    assert 0 < num_stopped < 64


def test_weights_are_repacked_only_while_sampling() -> None:
    lm = make_lm(causal("llama").bfloat16())
    layer = lm.backbone.layers[0]
    x = torch.randn(1, 5, 32).bfloat16()
    plain = layer.mlp(x)
    with torch.no_grad(), prepacked_linears(lm, 8) as head:
        torch.testing.assert_close(layer.mlp(x), plain)
        assert torch.equal(head.logits(x[0]), lm.head.logits(x[0]))
        if head.product is None:
            pytest.skip("no bf16 products of oneDNN on this machine")
        assert "forward" in vars(layer.mlp)
        assert "forward" in vars(layer.self_attn)
    assert "forward" not in vars(layer.mlp)
    assert "forward" not in vars(layer.self_attn)
    with pytest.raises(RuntimeError, match="stop here"), torch.no_grad(), prepacked_linears(lm, 8):
        raise RuntimeError("stop here")
    assert "forward" not in vars(layer.mlp)


def test_a_forward_that_somebody_replaced_stays() -> None:
    lm = make_lm(causal("llama").bfloat16())
    mlp, up = lm.backbone.layers[0].mlp, lm.backbone.layers[1].mlp.up_proj

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    vars(mlp)["forward"] = vars(up)["forward"] = doubled
    with torch.no_grad(), prepacked_linears(lm, 8), prepacked_linears(lm, 8):
        assert vars(mlp)["forward"] is vars(up)["forward"] is doubled
    assert vars(mlp)["forward"] is vars(up)["forward"] is doubled


@pytest.mark.parametrize("name", ["gpt-oss", "phi"])
def test_linear_layers_outside_fused_ones_are_repacked_alone(name: str) -> None:
    lm = make_lm(causal(name).bfloat16())
    layer = lm.backbone.layers[0]
    linear = layer.self_attn.dense if name == "phi" else layer.self_attn.o_proj
    x = torch.randn(1, 5, 32).bfloat16()
    plain = linear(x)
    with torch.no_grad(), prepacked_linears(lm, 8) as head:
        if head.product is None:
            pytest.skip("no bf16 products of oneDNN on this machine")
        assert "forward" in vars(linear)
        assert torch.equal(linear(x), plain)
    assert "forward" not in vars(linear)


def test_long_bf16_responses_equal_those_without_repacking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = make_lm(causal("llama").bfloat16(), sharp=3.0)
    sampled = sample(lm, max_new_tokens=20)
    monkeypatch.setattr(shared_prefix, "REPACK_FROM", 1000)
    assert token_ids(sample(lm, max_new_tokens=20)) == token_ids(sampled)
