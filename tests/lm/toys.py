"""A tokenizer and small models saved in folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from accord.lm.adapters.lora import add_adapters
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.settings.training import LoraSettings

SENTENCES = (
    "the cat sat on the mat and looked at the door",
    "a dog ran far away from the old house",
    "please write one word about the sea",
    "the answer is yes, and the answer is no",
)
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**_SHAPE, "head_dim": 8, "tie_word_embeddings": True},
    "qwen3": {**_SHAPE, "head_dim": 8},
    "gemma": {**_SHAPE, "head_dim": 8},
    "mistral": {**_SHAPE, "head_dim": 8, "sliding_window": 6},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "phi": _SHAPE,
}


@cache
def toy_tokenizer() -> Any:
    """Byte-level, with a chat template. All tests share it, so none may change it."""
    return train_tokenizer(SENTENCES, 300, 128)


def save_toy(
    folder: Path, architecture: str = "llama", *, seed: int = 0, scale: float = 4.0
) -> str:
    """Save an untrained model with the toy tokenizer; returns the folder's name.

    Its weights are scaled up, so that its distributions are far from uniform.
    """
    model = untrained_model(architecture, ARCHITECTURES[architecture], toy_tokenizer(), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    save_untrained(model, toy_tokenizer(), folder)
    return str(folder)


def with_adapters(lm: LanguageModel, seed: int) -> LanguageModel:
    """Adapters on a model, perturbed, since new ones are zero."""
    lm = add_adapters(lm, LoraSettings(r=2), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.trainable_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return lm


def random_groups(
    shapes: Sequence[tuple[int, Sequence[int]]], vocabulary: int, seed: int = 0
) -> list[PromptGroup]:
    """Groups of random tokens, each (prompt length, response lengths), ranked in order."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist())

    return [
        PromptGroup(tokens(prompt), tuple(tokens(n) for n in lengths), tuple(range(len(lengths))))
        for prompt, lengths in shapes
    ]
