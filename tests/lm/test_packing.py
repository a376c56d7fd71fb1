"""The packed forward pass against plain rows and against the logits of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    OPTConfig,
)

from accord.errors import ModelError
from accord.lm.checks import check_packing
from accord.lm.forward import (
    response_kl,
    response_logps,
    response_scores,
    response_stats,
    token_values,
)
from accord.lm.load import finish_loading, warn_about_plain_rows
from accord.lm.model import LanguageModel, disable_dropout
from accord.lm.packing import PromptGroup, pack
from tests.lm.models import CONFIGS, STATE_SPACE_CONFIGS, VOCABULARY, causal, scalar
from tests.lm.packed_groups import GROUPS, assert_same_gradients, gradients, weighted, wrapped


def transformers_logps(
    model: Any, groups: Sequence[PromptGroup], temperature: float = 1.0
) -> Tensor:
    """Log-probs from the logits of transformers, one unpadded row at a time."""
    actual = []
    for group in groups:
        for response in group.responses:
            logits = model(input_ids=torch.tensor([[*group.prompt, *response]])).logits[0]
            logps = (logits[len(group.prompt) - 1 : -1].double() / temperature).log_softmax(-1)
            actual.append(logps.gather(1, torch.tensor(response)[:, None]).squeeze(1))
    return torch.cat(actual)


def transformers_scores(model: Any, groups: Sequence[PromptGroup]) -> Tensor:
    """A reward model's scores as transformers gives them, one unpadded row at a time."""
    return torch.cat(
        [
            model(input_ids=torch.tensor([[*g.prompt, *r]])).logits[0]
            for g in groups
            for r in g.responses
        ]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probs_and_gradients_equal_those_of_transformers(name: str) -> None:
    model = causal(name)
    expected = transformers_logps(model, GROUPS)
    expected_gradients = gradients(model, weighted(expected))

    lm, batch = wrapped(model), pack(GROUPS)
    assert check_packing(lm)
    for packed in (True, False):
        lm.shares_prefixes = packed
        actual = response_logps(lm, batch)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)
        assert_same_gradients(gradients(model, weighted(actual)), expected_gradients)


def losses_and_gradients(lm: LanguageModel) -> tuple[float, float, dict[str, Tensor]]:
    """The mean loss of SFT, that of DPO on adjacent responses, and the gradients of their sum."""
    batch = pack(GROUPS)
    logps = response_logps(lm, batch)
    rewards = 0.1 * batch.per_response(logps)
    sft, dpo = -logps.mean(), -(rewards[:-1] - rewards[1:]).sigmoid().log().mean()
    return sft.item(), dpo.item(), gradients(lm.model, sft + dpo)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_and_gradients_are_the_same_packed_and_unpacked(name: str) -> None:
    lm = wrapped(causal(name))
    assert check_packing(lm)
    *packed, packed_gradients = losses_and_gradients(lm)
    lm.shares_prefixes = False
    *plain, plain_gradients = losses_and_gradients(lm)
    assert packed == pytest.approx(plain, rel=0, abs=1e-5)
    assert_same_gradients(packed_gradients, plain_gradients)


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_and_gradients_equal_those_of_transformers(name: str) -> None:
    model = scalar(name)
    model.config.pad_token_id = 0
    expected = transformers_scores(model, GROUPS).squeeze(-1)
    expected_gradients = gradients(model, weighted(expected))

    lm, batch = wrapped(model, scalar=True), pack(GROUPS)
    assert check_packing(lm)
    for packed in (True, False):
        lm.shares_prefixes = packed
        actual = response_scores(lm, batch)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        assert_same_gradients(gradients(model, weighted(actual)), expected_gradients)


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpointing_changes_no_gradient(name: str) -> None:
    model = disable_dropout(causal(name))
    lm, batch = wrapped(model), pack(GROUPS)
    assert check_packing(lm)
    plain = response_logps(lm, batch)
    expected = gradients(model, weighted(plain))
    lm.enable_gradient_checkpointing()
    again = response_logps(lm, batch)
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-6)
    assert_same_gradients(gradients(model, weighted(again)), expected)


def test_dropout_stays_off_in_the_training_mode_of_checkpointing() -> None:
    # OPT passes an attribute of its module, not an nn.Dropout, to functional dropout.
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        dropout=0.5,
    )
    model = disable_dropout(AutoModelForCausalLM.from_config(config).eval())
    lm, batch = wrapped(model), pack(GROUPS)
    check_packing(lm)
    before = response_logps(lm, batch)
    lm.enable_gradient_checkpointing()
    torch.testing.assert_close(response_logps(lm, batch), before, rtol=0, atol=1e-6)


def test_temperature_divides_the_logits() -> None:
    model = causal("gemma2")  # its soft cap is applied before the temperature
    lm = wrapped(model)
    assert check_packing(lm)
    stats = response_stats(lm, pack(GROUPS), want={"entropy"}, temperature=0.6)
    assert stats.entropy is not None
    torch.testing.assert_close(
        stats.logps.double(), transformers_logps(model, GROUPS, temperature=0.6), rtol=0, atol=1e-5
    )
    assert stats.entropy.shape == stats.logps.shape


def test_values_are_read_before_each_token_and_normalised() -> None:
    model = scalar("llama")
    lm = wrapped(model, scalar=True, score_mean=0.5, score_std=2.0)
    check_packing(lm)
    actual = token_values(lm, pack(GROUPS))
    expected = []
    for group in GROUPS:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt, *response]])
            raw = model.score(model.model(input_ids=ids).last_hidden_state)[0, :, 0]
            expected.append((raw[len(group.prompt) - 1 : -1] - 0.5) / 2.0)
    torch.testing.assert_close(actual, torch.cat(expected), rtol=0, atol=1e-5)


@torch.no_grad()
def test_sequence_kl_is_the_sum_over_tokens_and_vocabulary() -> None:
    model, reference_model = causal("llama", seed=0), causal("llama", seed=1)
    with torch.no_grad():
        for each in (model, reference_model):
            each.lm_head.weight.mul_(20)
    lm, reference = wrapped(model), wrapped(reference_model)
    check_packing(lm)
    check_packing(reference)
    actual = response_kl(lm, reference, pack(GROUPS))
    expected = []
    for group in GROUPS:
        for response in group.responses:
            ids, begin = torch.tensor([[*group.prompt, *response]]), len(group.prompt) - 1
            p = model(input_ids=ids).logits[0, begin:-1].double().log_softmax(-1)
            q = reference_model(input_ids=ids).logits[0, begin:-1].double().log_softmax(-1)
            expected.append(float((p.exp() * (p - q)).sum()))
    assert actual.tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.01


@pytest.mark.parametrize("name", STATE_SPACE_CONFIGS)
def test_recurrent_models_fall_back_to_plain_rows(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = causal(name)
    expected = transformers_logps(model, GROUPS)
    expected_gradients = gradients(model, weighted(expected))
    warn_about_plain_rows.cache_clear()
    with caplog.at_level("WARNING", logger="accord"):
        lm = finish_loading(wrapped(model))
    assert not lm.shares_prefixes
    assert f"A {type(model).__name__} can't share a prompt between its responses" in caplog.text
    actual = response_logps(lm, pack(GROUPS))
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)
    assert_same_gradients(gradients(model, weighted(actual)), expected_gradients)


def test_the_fall_back_is_logged_once_for_each_architecture(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_about_plain_rows.cache_clear()
    with caplog.at_level("WARNING", logger="accord"):
        for name in ("mamba", "lfm2", "mamba", "mamba"):
            assert not finish_loading(wrapped(causal(name))).shares_prefixes
    assert [r.getMessage().split(" can't ")[0] for r in caplog.records] == [
        "A MambaForCausalLM",
        "A Lfm2ForCausalLM",
    ]


class DoubledLogits(torch.nn.Linear):
    """A head that does more than a product, which its weight does not show."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) + x.sum(-1, keepdim=True) * torch.arange(self.out_features)


def test_an_unknown_head_is_refused() -> None:
    model = causal("qwen3")
    head = DoubledLogits(32, VOCABULARY, bias=False)
    model.lm_head = head
    with pytest.raises(ModelError, match="are not its hidden states times its output embeddings"):
        check_packing(wrapped(model))


def test_attention_in_chunks_falls_back() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**{**CONFIGS["llama"].to_dict(), "attention_chunk_size": 4})
    lm = wrapped(AutoModelForCausalLM.from_config(config).eval())
    assert not check_packing(lm)


def test_bf16_is_close_to_fp32() -> None:
    lm = wrapped(causal("llama"))
    assert check_packing(lm)
    exact = response_logps(lm, pack(GROUPS))
    lm.precision = "bf16"
    bf16 = response_logps(lm, pack(GROUPS))
    bf16.sum().backward()
    assert bf16.dtype == torch.float32
    torch.testing.assert_close(bf16, exact, rtol=0.02, atol=0.1)
    half = wrapped(causal("llama").bfloat16())
    assert check_packing(half)
    torch.testing.assert_close(response_logps(half, pack(GROUPS)), exact, rtol=0.02, atol=0.1)


def test_a_scalar_model_of_a_hybrid_falls_back() -> None:
    model = scalar("jamba")
    lm = wrapped(model, scalar=True)
    assert not check_packing(lm)
    expected = transformers_scores(model, GROUPS).squeeze(-1)
    torch.testing.assert_close(response_scores(lm, pack(GROUPS)), expected, rtol=0, atol=1e-5)
