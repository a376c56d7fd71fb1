"""A causal language model or a reward model with its tokenizer, with or without adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from accord.lm.adapters.switch import AdapterSwitch, adapter_name
from accord.lm.kernels.last_layer import LastLayer
from accord.lm.offload import offloaded_activations
from accord.objectives.logprobs import Head

if TYPE_CHECKING:
    from accord.lm.router import RouterRecord
    from accord.lm.sharding.shards import Sharded

Precision = Literal["fp32", "bf16"]


@dataclass
class LanguageModel:
    """A transformers model (or a peft model around one), its tokenizer and its properties.

    `name` is the path or hub name it was loaded from.
    `scalar` is True for a reward model or critic, whose head gives one number per token; an
    ensemble has several heads on one backbone.
    `shares_prefixes` is False for an architecture whose packed forward pass does not agree with
    its plain one; its batches are computed as plain padded rows.
    `has_new_head` is True where the scalar head was drawn at random and not trained yet,
    `is_critic` where it estimates values. A reward model with `reads_last_token` is another
    maker's: its score is read at the last token of the whole rendered conversation that is not
    `unread_padding`, as transformers does; otherwise at the token that ends the response.
    `unsaved` is True where no folder holds the weights: an adapter was merged into them, or they
    were trained in memory. `merged_adapter` is the folder of that adapter.
    `stored_dtype` is the dtype in which the model's own files hold the weights, and in which a
    trained full model is saved; None where it is not known.
    `score_mean` and `score_std` normalise a reward model's raw scores; `max_length` and
    `max_prompt_length` are its limits in tokens: its positions, or fewer where it was trained on
    fewer.
    `head_means` are the means of an ensemble's heads, and `score_penalty` the weight of their
    standard deviation; `length_slope` is the score per token that length alone explains, where it
    was subtracted from the scores.

    Several language models can be views on one `model` (`adapters.views`): each has its `adapter`
    of those that `switch` turns on and off (None: the base alone), and a critic or reward model its
    `score` head. Of a view with `head_only` the head alone is trained; it shares the backbone.
    `router_record` collects the router's loss of a mixture of experts while it is trained.
    With `offloads_activations` passes with gradients save what they need in the machine's memory.
    `last_layer` lets the model's last layer compute only the tokens that are read, where possible.
    `sharded` is set where the processes of a run divide the weights among them.
    """

    model: Any
    tokenizer: Any
    name: str
    scalar: bool = False
    precision: Precision = "fp32"
    shares_prefixes: bool = True
    has_new_head: bool = False
    is_critic: bool = False
    reads_last_token: bool = False
    unread_padding: int | None = None
    unsaved: bool = False
    merged_adapter: str | None = None
    stored_dtype: torch.dtype | None = None
    score_mean: float = 0.0
    score_std: float = 1.0
    max_length: int | None = None
    max_prompt_length: int | None = None
    head_means: tuple[float, ...] = ()
    score_penalty: float = 0.0
    length_slope: float | None = None
    switch: AdapterSwitch | None = None
    adapter: str | None = None
    score: nn.Linear | None = None
    head_only: bool = False
    last_layer: LastLayer | None = None
    router_record: RouterRecord | None = None
    offloads_activations: bool = False
    sharded: Sharded | None = None

    @property
    def inner(self) -> Any:
        """The transformers model, without peft's wrapper."""
        return self.model.get_base_model() if self.is_peft else self.model

    @property
    def is_peft(self) -> bool:
        return hasattr(self.model, "peft_config")

    @property
    def is_quantised(self) -> bool:
        """Whether the base's linear layers have 4-bit weights, which can't be trained."""
        return bool(getattr(self.inner, "is_loaded_in_4bit", False))

    @property
    def backbone(self) -> nn.Module:
        """The decoder without its head: token ids to hidden states."""
        inner = self.inner
        # Llama 4's text model names the prefix of the model with images.
        prefixes = (inner.base_model_prefix, "model", "transformer")
        module: nn.Module = next(getattr(inner, p) for p in prefixes if hasattr(inner, p))
        return module

    @property
    def backbone_prefix(self) -> str:
        """What the names of the backbone's parameters begin with in the whole model."""
        backbone = self.backbone
        return next(f"{n}." for n, module in self.inner.named_modules() if module is backbone)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def routes_tokens(self) -> bool:
        """Whether the model is a mixture of experts that returns its routers' logits."""
        return hasattr(self.inner.config.get_text_config(), "output_router_logits")

    @property
    def max_positions(self) -> int | None:
        """Tokens that the model has positions for; None where its configuration has no limit.

        Where positions are scaled by the longest row of a batch, it is the length up to which they
        are not: beyond it a row's numbers would depend on the rows beside it.
        """
        return positions_of(self.inner.config)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Token ids that end a response: those of the tokenizer and of the generation config."""
        return end_tokens(self.tokenizer, getattr(self.inner, "generation_config", None))

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

    @property
    def heads(self) -> int:
        """The number of scalar heads; 0 for a causal language model."""
        if self.score is not None:
            return self.score.out_features
        return int(self.inner.config.num_labels) if self.scalar else 0

    def head_scores(self, hidden: Tensor) -> Tensor:
        """Each scalar head's float32 value (n, heads) of hidden states (n, D)."""
        head = self.inner.score if self.score is None else self.score
        copies = getattr(head, "modules_to_save", None)  # peft's wrapper: the trained copy
        weight = next(iter(copies.values())) if copies else head
        scores: Tensor = head(hidden.to(next(weight.parameters()).dtype))
        return scores.float()

    def combine_heads(self, scores: Tensor) -> Tensor:
        """One score (n,) from those of the heads (n, heads): their mean − penalty · their std.

        Uncertainty-weighted, after Coste et al. 2023, who subtract the variance; the standard
        deviation has the unit of the scores. A head's scores are determined up to a constant only,
        so its mean is subtracted first.
        """
        if scores.shape[-1] == 1:
            return scores.squeeze(-1)
        if self.head_means:
            scores = scores - scores.new_tensor(self.head_means)
        return scores.mean(-1) - self.score_penalty * scores.std(-1, unbiased=False)

    def score_states(self, hidden: Tensor) -> Tensor:
        """The float32 score (n,) of hidden states (n, D)."""
        return self.combine_heads(self.head_scores(hidden))

    @contextmanager
    def precision_context(self) -> Iterator[None]:
        """The context of forward passes: this view's adapter active, the precision, and where
        activations are saved."""
        adapter = nullcontext() if self.switch is None else self.switch.activated(self.adapter)
        offload: AbstractContextManager[Any] = nullcontext()
        if self.offloads_activations and torch.is_grad_enabled():
            offload = offloaded_activations(self.model.parameters())
        with adapter, self._autocast(), offload:
            yield

    def _autocast(self) -> AbstractContextManager[Any]:
        """Autocast to bf16 where the precision is bf16 and the weights are not."""
        if self.precision == "fp32" or self.weights_dtype == torch.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @property
    def weights_dtype(self) -> torch.dtype:
        """The dtype of the backbone's matrices; of 4-bit ones that of the embeddings, in which
        they compute."""
        if self.sharded is not None:
            return self.sharded.compute_dtype
        matrices = (p for p in self.backbone.parameters() if p.ndim > 1)
        return next(p.dtype for p in matrices if p.is_floating_point())

    def stays_float32(self, name: str) -> bool:
        """Whether a parameter is float32 under bf16 too: a scalar head's, and those that the
        architecture requires to be."""
        strict = getattr(self.inner, "_keep_in_fp32_modules_strict", None) or ()
        parts = name.split(".")
        return (self.scalar and "score" in parts) or any(m in parts for m in strict)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The view's parameters that are trained, by name."""
        return {n: p for n, p in self.view_parameters().items() if p.requires_grad}

    def view_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by name: those of the base and of this view's adapter and head, without those
        of other views."""
        head = (
            {}
            if self.score is None
            else {f"score.{n}": p for n, p in self.score.named_parameters()}
        )
        if self.head_only:
            return head
        parameters = dict(self.model.named_parameters())
        if self.switch is not None:
            used = (None, self.adapter)
            parameters = {n: p for n, p in parameters.items() if adapter_name(n) in used}
        return parameters | head

    @property
    def recomputes_activations(self) -> bool:
        """Whether gradient checkpointing is on."""
        later_name = getattr(self.inner, "is_activation_checkpointing", None)
        return bool(self.inner.is_gradient_checkpointing if later_name is None else later_name)

    def disable_gradient_checkpointing(self) -> None:
        """Store activations again, after an earlier run recomputed them."""
        disable = getattr(self.inner, "activation_checkpointing_disable", None)  # its later name
        (disable or self.inner.gradient_checkpointing_disable)()

    def enable_gradient_checkpointing(self) -> None:
        """Gradient checkpointing: save layer inputs only, recompute the rest in the backward
        pass."""
        enable = getattr(self.inner, "activation_checkpointing_enable", None)  # its newer name
        options: dict[str, Any] = {"use_reentrant": False}
        if self.switch is not None:
            options["context_fn"] = self.switch.checkpoint_contexts
        (enable or self.inner.gradient_checkpointing_enable)(options)
        if self.last_layer is not None:  # a recomputation does not know which tokens are read
            self.last_layer.remove()
            self.last_layer = None
        self.inner.enable_input_require_grads()
        self.model.train()  # transformers checkpoints in this mode only; dropout is off anyway


def end_tokens(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Token ids that end a response, by a tokenizer and a model's generation config."""
    ids: set[int] = set()
    for value in (tokenizer.eos_token_id, getattr(generation_config, "eos_token_id", None)):
        if value is not None:
            ids.update(value if isinstance(value, list | tuple) else [value])
    return frozenset(ids)


def unscaled_positions(config: Any) -> int | None:
    """The length up to which a model's rotary positions do not depend on the batch's longest row;
    None where they never do."""
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    for part in parts:
        if part.get("rope_type") in ("longrope", "dynamic"):
            original = part.get("original_max_position_embeddings")
            limit = original or getattr(config, "original_max_position_embeddings", None)
            return int(limit or config.max_position_embeddings)
    return None


def disable_dropout(model: nn.Module) -> nn.Module:
    """Turn dropout off everywhere: log-probs in training must equal those in sampling."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():  # passed to functional dropout in training mode
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def positions_of(config: Any) -> int | None:
    """The `max_positions` of the model that a configuration describes."""
    config = config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None), unscaled_positions(config)]
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)
