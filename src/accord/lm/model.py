"""A causal language model or a reward model with its tokenizer, however it was adapted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from accord.objectives.logprobs import Head

Precision = Literal["fp32", "bf16"]


@dataclass
class LanguageModel:
    """A transformers model (or a peft model around one) and what accord needs to know of it.

    `scalar` is True for a reward model or critic, whose head gives one number a token.
    `shares_prefixes` is False for an architecture whose packed forward pass does not agree with
    its own; its batches are computed as plain padded rows.
    `merged` is True where an adapter was merged into the weights, which no folder holds as such.
    `score_mean` and `score_std` normalise a reward model's raw scores; `max_length` and
    `max_prompt_length` are the tokens it can be given: those it was trained on, or its positions.
    """

    model: Any
    tokenizer: Any
    name: str
    scalar: bool = False
    precision: Precision = "fp32"
    shares_prefixes: bool = True
    merged: bool = False
    score_mean: float = 0.0
    score_std: float = 1.0
    max_length: int | None = None
    max_prompt_length: int | None = None

    @property
    def inner(self) -> Any:
        """The transformers model itself, inside of peft's wrapper if there is one."""
        return self.model.get_base_model() if self.is_peft else self.model

    @property
    def is_peft(self) -> bool:
        return hasattr(self.model, "peft_config")

    @property
    def backbone(self) -> nn.Module:
        """The decoder without its head: token ids to hidden states."""
        inner = self.inner
        return getattr(inner, inner.base_model_prefix)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end a response: the tokenizer's and the generation settings'."""
        ids: set[int] = set()
        for value in (
            self.tokenizer.eos_token_id,
            getattr(getattr(self.inner, "generation_config", None), "eos_token_id", None),
        ):
            if value is not None:
                ids.update(value if isinstance(value, list | tuple) else [value])
        return frozenset(ids)

    @property
    def head(self) -> Head:
        """The vocabulary head of a causal language model."""
        config = self.inner.config.get_text_config()
        linear = self.inner.get_output_embeddings()
        scale = getattr(config, "logit_scale", None)  # Cohere
        divisor = getattr(config, "logits_scaling", None)  # Granite
        return Head(
            weight=linear.weight,
            bias=linear.bias,
            scale=float(scale) if scale else 1.0 / float(divisor) if divisor else 1.0,
            softcap=getattr(config, "final_logit_softcapping", None),
        )

    def scores_of(self, hidden: Tensor) -> Tensor:
        """The scalar head's float32 value (n,) of hidden states (n, D)."""
        head = self.inner.score
        copies = getattr(head, "modules_to_save", None)  # peft's wrapper: the copy that learns
        weight = next(iter(copies.values())) if copies else head
        return head(hidden.to(next(weight.parameters()).dtype)).float().squeeze(-1)

    def compute(self) -> AbstractContextManager[Any]:
        """The precision that forward passes run in."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that learn, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def recompute_activations(self) -> None:
        """Gradient checkpointing: keep layer inputs only, compute the rest again going back."""
        self.inner.gradient_checkpointing_enable({"use_reentrant": False})
        self.inner.enable_input_require_grads()
        self.model.train()  # transformers checkpoints in this mode only; dropout is off anyway

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Adapters off: the model that training started from. Only for a peft model."""
        with self.model.disable_adapter(), torch.no_grad():
            yield


def without_dropout(model: nn.Module) -> nn.Module:
    """Dropout off everywhere: log-probs under learning must equal those under sampling."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # given to functional dropout in training mode
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model
