"""The router's loss of mixtures of experts, against the models' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from accord.learn.offline.methods import METHODS
from accord.learn.offline.train import add_router_loss
from accord.lm.checks import check_packing
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel, disable_dropout
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.lm.router import recorded_router, router_loss
from accord.settings.training import SftSettings
from tests.lm.packed_groups import GROUPS, assert_same_gradients, gradients, wrapped

_SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8},
    "olmoe": {"num_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "gpt_oss": {
        "num_local_experts": 4,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "phimoe": {"num_local_experts": 4},
    "jamba": {"num_experts": 4, "mamba_d_state": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
}


def experts(name: str, **values: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[name](**{**_SHAPE, **EXPERTS[name], **values})
    model = disable_dropout(AutoModelForCausalLM.from_config(config).float()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # routers that prefer some experts
    return model


def plain_loss(model: Any, groups: list[PromptGroup]) -> tuple[Tensor, Tensor]:
    """The model's own loss and router's loss of plain padded rows, on the responses' tokens."""
    rows = [(g.prompt, r) for g in groups for r in g.responses]
    width = max(len(p) + len(r) for p, r in rows)
    ids, labels = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.full((len(rows), width), -100),
    )
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (prompt, response) in enumerate(rows):
        row = torch.tensor([*prompt, *response])
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
        labels[i, len(prompt) : len(row)] = row[len(prompt) :]
    out = model(input_ids=ids, attention_mask=mask, labels=labels)
    return out.loss, out.aux_loss


def sft_losses(lm: LanguageModel, batch: PackedBatch) -> Any:
    settings = SftSettings(model="m", dataset="d", output_dir="o")
    objective = METHODS["sft"].objective(lm, settings, batch.groups, None)
    router = router_loss(lm)
    assert router is not None
    return add_router_loss(objective, lm, router).losses(batch, range(9), None, log=True)


@pytest.mark.parametrize("name", EXPERTS)
def test_the_loss_is_the_models_own(name: str) -> None:
    model = experts(name)
    expected, aux_loss = plain_loss(model, GROUPS)
    expected_gradients = gradients(model, expected)
    lm, batch = wrapped(model), pack(GROUPS)
    check_packing(lm)
    for packed in {lm.shares_prefixes, False}:
        lm.shares_prefixes = packed
        losses = sft_losses(lm, batch)
        loss = losses.weighted_sum() / losses.weights.sum()
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-4)
        assert losses.metrics["aux_loss"][0] == pytest.approx(float(aux_loss), abs=1e-4)
        assert_same_gradients(gradients(model, loss), expected_gradients)
    assert lm.router_record is None


def test_recomputed_activations_change_no_gradient() -> None:
    model = experts("mixtral")
    lm, batch = wrapped(model), pack(GROUPS)
    check_packing(lm)

    def loss() -> Tensor:
        losses = sft_losses(lm, batch)
        total: Tensor = losses.weighted_sum()
        return total

    expected = gradients(model, loss())
    lm.enable_gradient_checkpointing()
    assert_same_gradients(gradients(model, loss()), expected)


def test_only_passes_over_the_batch_are_recorded() -> None:
    lm, batch = wrapped(experts("mixtral")), pack(GROUPS)
    check_packing(lm)
    router = router_loss(lm)
    assert router is not None
    with recorded_router(lm, router, batch) as record:
        response_logps(lm, pack(GROUPS))
        response_logps(lm, batch)
    assert len(record.losses) == 1
    response_logps(lm, batch)
    assert len(record.losses) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"output_router_logits": False}, "not output_router_logits=true"),
        ({"router_aux_loss_coef": 0.0}, ""),
    ],
)
def test_what_the_configuration_does_not_ask_for_is_not_added(
    values: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    lm = wrapped(experts("mixtral", **values))
    with caplog.at_level("INFO", logger="accord"):
        assert router_loss(lm) is None
    assert said in caplog.text


def test_a_loss_that_is_left_out_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    lm = wrapped(experts("mixtral"))
    with caplog.at_level("WARNING", logger="accord"):
        assert router_loss(lm, adds=False) is None
        lm.inner.num_experts = 3  # a loss of its own: other numbers than the common formula's
        assert router_loss(lm) is None
    assert "is left out: online methods do not add it" in caplog.text
    assert "is left out: a MixtralForCausalLM computes it in a way of its own" in caplog.text


def test_nothing_is_asked_of_a_dense_model() -> None:
    config = CONFIG_MAPPING["llama"](**{k: v for k, v in _SHAPE.items() if "router" not in k})
    lm = wrapped(AutoModelForCausalLM.from_config(config).eval())
    assert router_loss(lm) is None
