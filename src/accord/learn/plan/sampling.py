"""The memory of sampling with the local engine: keys and values, logits, prepacked weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accord.lm.kernels.prepacked import MAX_BYTES
from accord.respond.local.draw import CPU_BLOCK
from accord.respond.local.memory import key_value_bytes, store_capacity
from accord.respond.local.shared_prefix import LOGITS_ROWS, REPACK_FROM


@dataclass(frozen=True, slots=True)
class SamplingMemory:
    """Bytes while responses are sampled: keys and values, logits, weights laid out again."""

    keys_values: int
    logits: int
    prepacked: int

    @property
    def total(self) -> int:
        return self.keys_values + self.logits + self.prepacked


def sampling_memory(
    config: Any,
    *,
    rows: int,
    responses: int,
    prompt: int,
    new_tokens: int,
    linear_weights: int = 0,
    prepacks: bool = False,
    cuda_half: bool = False,
) -> SamplingMemory:
    """The memory of `rows` rows at a time, `responses` to each prompt.

    `prompt` and `new_tokens` are the longest. A store of keys and values has room for a power of
    two of tokens, and is float32 on a CPU, where a prompt's own store has the model's precision;
    with one response to a prompt it holds both. `linear_weights` counts those that a CPU's bf16
    matrix units would have laid out again (`prepacks`).
    """
    size = key_value_bytes(config, half=cuda_half)
    if responses == 1:
        stored = rows * store_capacity(prompt + new_tokens) * size
    else:
        prompts = -(-rows // responses)
        prompt_size = key_value_bytes(config, half=cuda_half or prepacks)
        stored = (
            rows * store_capacity(new_tokens) * size
            + prompts * store_capacity(prompt) * prompt_size
        )
    vocabulary = int(config.vocab_size)
    # The logits in the head's precision and in float32; softmax of as many as fit the cache.
    logits = min(rows, LOGITS_ROWS) * vocabulary * (6 if prepacks or cuda_half else 4)
    logits += 2 * 4 * max(CPU_BLOCK, vocabulary)
    copies = 2 * linear_weights if prepacks and new_tokens >= REPACK_FROM else 0
    return SamplingMemory(int(stored), logits, copies if copies <= MAX_BYTES else 0)
