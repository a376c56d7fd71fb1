"""Layers that read their input in one product, against those of the transformers models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from accord.lm.attention.plan import AttentionPlan
from accord.lm.kernels.fused import Rotation, fused_forward, fused_linears
from tests.lm.models import causal

# Which layers of each model are replaced, by hand from their code: GPT-2 and Phi have other linear
# layers, gpt-oss takes half as many cosines, a mixture's experts are no MLP, and Jamba does not
# rotate.
FUSED = {
    "llama": {"self_attn", "mlp"},
    "qwen3": {"self_attn", "mlp"},
    "gemma": {"self_attn", "mlp"},
    "gemma2": {"self_attn", "mlp"},
    "gemma3": {"self_attn", "mlp"},
    "mistral": {"self_attn", "mlp"},
    "gpt-oss": set[str](),
    "qwen3-moe": {"self_attn"},
    "gpt2": set[str](),
    "phi": set[str](),
}


def plain_linear(weight: Tensor, bias: Tensor | None) -> Any:
    return lambda x: nn.functional.linear(x, weight, bias)


def model_of(name: str) -> Any:
    """A bf16 model with accord's attention, its norms' weights not all the same."""
    torch.manual_seed(0)
    model = causal(name).bfloat16()
    model.set_attn_implementation("accord")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def replacements(model: Any) -> dict[str, Any]:
    with torch.no_grad():
        rotation = Rotation()
        found = {n: (m, fused_forward(m, plain_linear, rotation)) for n, m in model.named_modules()}
    return {name: pair for name, pair in found.items() if pair[1] is not None}


@pytest.mark.parametrize("name", FUSED)
def test_a_packed_pass_with_fused_layers_gives_the_models_states(name: str) -> None:
    model = model_of(name)
    pairs = replacements(model)
    assert {n.rsplit(".", 1)[1] for n in pairs} == FUSED[name]
    lengths = (9, 1, 14)  # two of them longer than the windows of 6
    ids = torch.randint(3, 90, (1, sum(lengths)))
    options = {
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool),
        "packed": AttentionPlan(tuple((0, (n,)) for n in lengths), torch.device("cpu")),
        "use_cache": False,
    }
    with torch.no_grad():
        plain = model.base_model(input_ids=ids, **options).last_hidden_state.float()
        for module, forward in pairs.values():
            module.forward = forward
            for linear in fused_linears(module):  # it is not called any more
                linear.forward = None
        fused = model.base_model(input_ids=ids, **options).last_hidden_state.float()
    # Sums in another order, in bfloat16.
    assert float((fused - plain).norm()) <= 0.01 * float(plain.norm())


def llama_attention() -> Any:
    return model_of("llama").model.layers[0].self_attn


def test_layers_that_compute_something_else_are_left_alone() -> None:
    with torch.no_grad():
        assert fused_forward(llama_attention(), plain_linear, Rotation()) is not None
        changed = [llama_attention() for _ in range(4)]
        changed[0].q_proj.register_forward_hook(lambda module, args, out: 2 * out)
        changed[1].k_proj = nn.Sequential(changed[1].k_proj)  # such as LoRA's wrapper
        changed[2].v_proj.float()
        plain = changed[3].forward
        changed[3].forward = lambda *args, **kwargs: (2 * plain(*args, **kwargs)[0], None)
        for attention in changed:
            assert fused_forward(attention, plain_linear, Rotation()) is None
        mlp = model_of("llama").model.layers[0].mlp
        mlp_forward = mlp.forward
        mlp.forward = lambda x: mlp_forward(x) + 0.1 * mlp_forward(x).norm()
        assert fused_forward(mlp, plain_linear, Rotation()) is None


def test_attention_that_rotates_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = llama_attention()
    monkeypatch.setattr(
        modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin, **kwargs: (q, 2 * k)
    )
    with torch.no_grad():
        assert fused_forward(attention, plain_linear, Rotation()) is None


def test_what_a_fused_layer_is_not_made_for_takes_the_plain_way() -> None:
    attention, mlp = llama_attention(), model_of("llama").model.layers[0].mlp
    with torch.no_grad():
        pairs = [(m, fused_forward(m, plain_linear, Rotation())) for m in (attention, mlp)]
    for module, _ in pairs:
        module.float()
    x, cos, sin = torch.randn(2, 5, 32), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    given = {"position_embeddings": (cos, sin), "attention_mask": None}
    with torch.no_grad():  # two rows, in float32
        (_, fused_attention), (_, fused_mlp) = pairs
        assert torch.equal(fused_attention(x, **given)[0], attention(x, **given)[0])
        assert torch.equal(fused_mlp(x), mlp(x))


def test_biases_are_joined_with_zeros_where_a_projection_has_none() -> None:
    attention = llama_attention()
    x, cos, sin = (torch.randn(1, 5, n).bfloat16() for n in (32, 8, 8))
    for name in ("q_proj", "v_proj"):
        linear = getattr(attention, name)
        linear.bias = nn.Parameter(torch.randn(len(linear.weight)).bfloat16())
    given = {"position_embeddings": (cos, sin), "attention_mask": None}
    with torch.no_grad():
        fused = fused_forward(attention, plain_linear, Rotation())
        assert fused is not None
        expected = attention(x, **given)[0]
        error = (fused(x, **given)[0] - expected).float().norm()
        assert float(error) <= 0.01 * float(expected.float().norm())
