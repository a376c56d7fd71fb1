"""How many responses are generated at a time, so that their keys and values fit into memory."""

from __future__ import annotations

from typing import Any

import torch

from accord.lm.attention.prefixes import BLOCK, PrefixPool
from accord.lm.attention.store import INITIAL_CAPACITY
from accord.lm.model import LanguageModel

CPU_BYTES = 2 << 30  # for keys and values on a CPU, whose other memory is not ours to count
CUDA_SHARE = 0.5  # of the device's free memory
POOL_SHARE = 1 / 8  # of that, beside it, for beginnings of prompts that were read before


def rows_in_memory(
    lm: LanguageModel, batch_size: int, tokens: int, shared_tokens: int = 0, *, sharing: int = 1
) -> int:
    """The rows of a batch: `batch_size`, or as many as fit, and at least one.

    Each row stores `tokens` tokens, and every `sharing` rows have `shared_tokens` in common. Which
    rows are in a batch does not change their draws, and their numbers only in the last bits.
    """
    shared = store_capacity(shared_tokens) / sharing if shared_tokens else 0.0
    row_bytes = (store_capacity(tokens) + shared) * bytes_of_token(lm)
    return max(1, min(batch_size, int(memory_budget(lm) / row_bytes)))


def memory_budget(lm: LanguageModel) -> float:
    """Bytes for keys and values."""
    if lm.device.type != "cuda":
        return float(CPU_BYTES)
    free, _ = torch.cuda.mem_get_info(lm.device)
    unused = torch.cuda.memory_reserved(lm.device) - torch.cuda.memory_allocated(lm.device)
    return CUDA_SHARE * (free + unused)


def prefix_pool(lm: LanguageModel) -> PrefixPool | None:
    """A pool for beginnings of prompts, of POOL_SHARE of the memory for keys and values; None where
    the model can't use one."""
    if lm.device.type != "cpu" or not lm.shares_prefixes:
        return None
    half = lm.precision == "bf16"
    block = BLOCK * key_value_bytes(lm.inner.config.get_text_config(), half=half)
    return PrefixPool(max(1, int(POOL_SHARE * memory_budget(lm) / block)))


def store_capacity(tokens: int) -> int:
    """The tokens that a store has room for when it holds `tokens`: it grows by doubling."""
    capacity = INITIAL_CAPACITY
    while capacity < tokens:
        capacity *= 2
    return capacity


def bytes_of_token(lm: LanguageModel) -> float:
    """Bytes of the keys and values of one token in all layers; the store is float32 on a CPU."""
    half = lm.device.type == "cuda" and lm.precision == "bf16"
    return float(key_value_bytes(lm.inner.config.get_text_config(), half=half))


def key_value_bytes(config: Any, *, half: bool) -> int:
    """Bytes of the keys and values of one token in all layers of a text model's configuration, in
    float32 or, with `half`, in half of that."""

    def size(name: str, default: int) -> int:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple):  # one for each layer
            value = max(value, default=None)
        return int(value or default)

    heads = size("num_attention_heads", 1)
    width = size("head_dim", max(1, size("hidden_size", 1) // heads))
    per_layer = 2 * size("num_key_value_heads", heads) * width * (2 if half else 4)
    return size("num_hidden_layers", 1) * per_layer
