"""Every log-prob of accord against plain transformers, for small models of many architectures.

    python studies/cross_check.py

Each model has a few thousand random weights. Its log-probs are computed three times:
by transformers, one unpadded row at a time; by accord's training pass, where responses share their
prompt; and by accord's sampler, as it draws tokens from its key-value cache. The table shows the
largest differences in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from accord.lm.forward import response_logps
from accord.lm.load import finish_loading
from accord.lm.model import LanguageModel, disable_dropout
from accord.lm.packing import PromptGroup, pack
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings

VOCABULARY = 96
EOS = 2
SHARPNESS = 4.0  # factor of the matrices: distributions are then far from uniform
SAMPLED = 12  # tokens of a sampled response, beyond the windows of the models below

_IDS = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0}
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    **_IDS,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_WIDE = {**_GROUPED, "head_dim": 8}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_STATES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "state_size": 4,
    "num_hidden_layers": 2,
    **_IDS,
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llama": _WIDE,
    "mistral": {**_WIDE, "sliding_window": 6},
    "qwen2": _GROUPED,
    "qwen3": _WIDE,
    "gemma": _WIDE,
    "gemma2": {**_WIDE, "sliding_window": 6},
    "gemma3_text": {**_WIDE, "sliding_window": 6},
    "phi": _GROUPED,
    "phi3": {  # positions that are scaled by the longest row, beyond a length
        **_GROUPED,
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.5] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 64,
        },
    },
    "gpt2": {**_GPT, **_IDS},
    "gpt_neo": {
        **_SHAPE,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 6,
    },
    "gpt_neox": _SHAPE,
    "gptj": {**_GPT, "rotary_dim": 4, **_IDS},
    "gpt_bigcode": {**_GPT, **_IDS},
    "opt": {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, **_IDS},
    "falcon": {**_SHAPE, "alibi": False},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_layers": 2, "n_heads": 4, **_IDS},
    "stablelm": _GROUPED,
    "cohere": _GROUPED,
    "cohere2": {**_WIDE, "sliding_window": 6},
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "granite": {**_GROUPED, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "starcoder2": {**_GROUPED, "sliding_window": 6},
    "nemotron": _WIDE,
    "smollm3": {**_GROUPED, "no_rope_layers": [1, 0]},
    "glm": _WIDE,
    "mixtral": {**_WIDE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_GROUPED, **_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_WIDE, **_EXPERTS, "num_experts": 4},
    "olmoe": {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        **_WIDE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "deepseek_v3": {
        **_SHAPE,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "llama4_text": {
        **_WIDE,
        "intermediate_size_mlp": 48,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "attention_chunk_size": 8,
    },
    "mamba": _STATES,
    "mamba2": {**_STATES, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "jamba": {
        **_GROUPED,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "expert_layer_period": 4,
        "expert_layer_offset": 3,
        "mamba_d_state": 4,
    },
}


class NoText:
    """A tokenizer of token ids alone."""

    eos_token_id = EOS
    pad_token_id = 0

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return " ".join(map(str, ids))


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest differences in nats between accord's log-probs and transformers' own, and
    whether responses share their prompt."""

    shares_prompts: bool
    training: float
    sampling: float


def random_model(name: str, seed: int = 0) -> Any:
    """An untrained model of an architecture, its matrices scaled up."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[name](**CONFIGURATIONS[name])
    model = disable_dropout(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(SHARPNESS)
    return model


def random_groups(seed: int = 0) -> list[PromptGroup]:
    """Prompts of several lengths with one to three responses each."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    shapes = ((9, (4, 11)), (1, (3,)), (5, (1, 2, 7)))
    return [PromptGroup(tokens(n), tuple(map(tokens, lengths))) for n, lengths in shapes]


def plain_logps(model: Any, groups: Sequence[PromptGroup]) -> Tensor:
    """The log-probs of all response tokens by transformers, one unpadded row at a time."""
    rows = []
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt, *response]])
            logits = model(input_ids=ids, use_cache=False).logits[0]
            before = logits[len(group.prompt) - 1 : -1].float().log_softmax(-1)
            rows.append(before.gather(1, torch.tensor(response)[:, None]).squeeze(1))
    return torch.cat(rows)


@torch.no_grad()
def cross_check(name: str) -> Agreement:
    """Compare accord's log-probs of an architecture with those of transformers."""
    plain, groups = random_model(name), random_groups()
    lm = finish_loading(LanguageModel(random_model(name), NoText(), name))
    training = response_logps(lm, pack(groups))
    settings = SamplingSettings(num_responses=3, max_new_tokens=SAMPLED)
    prompts = [group.prompt for group in groups]
    samples = LocalSampler(lm)(prompts, settings, seed=0, streams=range(len(prompts)))
    drawn = [
        PromptGroup(p, tuple(s.tokens for s in group))
        for p, group in zip(prompts, samples, strict=True)
    ]
    sampling = torch.tensor([logp for group in samples for s in group for logp in s.logps])
    return Agreement(
        lm.shares_prefixes,
        float((training - plain_logps(plain, groups)).abs().max()),
        float((sampling - plain_logps(plain, drawn)).abs().max()),
    )


def table(agreements: dict[str, Agreement]) -> str:
    """The differences as a Markdown table."""
    lines = [
        "| architecture | responses share a prompt | training pass | sampling |",
        "|---|---|---|---|",
    ]
    for name, row in agreements.items():
        shares = "yes" if row.shares_prompts else "no: plain rows"
        lines.append(f"| `{name}` | {shares} | {row.training:.1e} | {row.sampling:.1e} |")
    return "\n".join(lines)


def main(write: Callable[[str], object] = print) -> None:
    write(table({name: cross_check(name) for name in CONFIGURATIONS}))


if __name__ == "__main__":
    main()
