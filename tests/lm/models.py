"""Small models of real configurations, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

VOCABULARY = 96
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_SHAPE),
    "gemma": GemmaConfig(**_SHAPE),
    "gemma2": Gemma2Config(**_SHAPE, sliding_window=6),
    "gemma3": Gemma3TextConfig(**_SHAPE, sliding_window=6),
    "mistral": MistralConfig(**_SHAPE, sliding_window=6),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "qwen3-moe": Qwen3MoeConfig(
        **_SHAPE, moe_intermediate_size=24, num_experts=4, num_experts_per_tok=2
    ),
    # Mixture of experts, attention sinks, and a window in every other layer.
    "gpt-oss": GptOssConfig(
        **_SHAPE,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "phi": PhiConfig(**{k: v for k, v in _SHAPE.items() if k != "head_dim"}),
}

STATE_SPACE_CONFIGS: dict[str, Any] = {
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
"""Models with a recurrent state, some with attention layers between."""


def causal(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(name)).eval()
    return _with_sinks(model)


def scalar(name: str, seed: int = 0, heads: int = 1) -> Any:
    torch.manual_seed(seed)
    config = _config(name)
    config = config.__class__(**{**config.to_dict(), "num_labels": heads})
    return _with_sinks(AutoModelForSequenceClassification.from_config(config).eval())


def _config(name: str) -> Any:
    return (CONFIGS | STATE_SPACE_CONFIGS)[name]


def _with_sinks(model: Any) -> Any:
    """Random sinks: initial ones are near 0, where a wrong sign would hardly show."""
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.data.normal_(0.5, 1.0, generator=torch.Generator().manual_seed(1))
    return model
