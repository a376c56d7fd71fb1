"""Checks a loaded model: finite weights, a decoder, and packed numbers equal to its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from accord.errors import ModelError
from accord.lm.attention.packed import NAME
from accord.lm.forward import response_logps, response_scores
from accord.lm.kernels.last_layer import LastLayer
from accord.lm.loading.quantised import check_numbers, is_4bit_weight
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack

log = logging.getLogger(__name__)

# Nats by which a packed log-prob may differ from the model's own, by the weights' precision.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.2}
_CHECKED_AT_ONCE = 1 << 20  # numbers of a weight


@torch.no_grad()
def check_finite_weights(lm: LanguageModel) -> None:
    """Raise ModelError for weights that are NaN or infinite.

    Rows of the token embeddings may be: a model may never see their tokens, so they are logged.
    """
    embeddings = lm.inner.get_input_embeddings().weight
    head = lm.inner.get_output_embeddings()
    tied = head is not None and head.weight is embeddings
    for name, parameter in lm.inner.named_parameters():
        if is_4bit_weight(parameter):  # a block's scale is its largest magnitude
            if not bool(torch.isfinite(parameter.quant_state.offset)):
                raise _not_finite(lm, f"some of the numbers in {name}")
            continue
        if _all_finite(parameter):
            continue
        bad = ~torch.isfinite(parameter)
        if parameter is embeddings and not tied:
            rows = bad.any(1).nonzero().flatten().tolist()
            log.warning(
                "%s: the embeddings of %d tokens are not finite (%s%s). A text with one of them "
                "can't be computed.",
                lm.name,
                len(rows),
                ", ".join(repr(lm.tokenizer.convert_ids_to_tokens(row)) for row in rows[:4]),
                ", …" if len(rows) > 4 else "",
            )
            continue
        raise _not_finite(lm, f"{int(bad.sum()):,} of {bad.numel():,} numbers in {name}")


def _not_finite(lm: LanguageModel, what: str) -> ModelError:
    return ModelError(
        f"{lm.name}: the weights are not finite: {what} are NaN or infinite. The training that "
        f"wrote them diverged, or the file is damaged; name an earlier checkpoint."
    )


def check_quantised(lm: LanguageModel) -> None:
    """Raise ModelError where 4-bit weights would be read wrongly: by bitsandbytes, or by layers
    with a recurrent state, which use weights without calling the layers that they belong to."""
    if not lm.is_quantised:
        return
    if _has_recurrent_state(lm.inner.config.get_text_config()):
        raise ModelError(
            f"{lm.name} is a {type(lm.inner).__name__}, whose layers carry a recurrent state: they "
            f"read weights directly, and these can't be in 4 bits. Leave quantization out; "
            f"precision=bf16 with lora holds them in half the memory."
        )
    check_numbers(lm.inner, lm.name)


def _all_finite(weight: Tensor) -> bool:
    """A part's sum is finite where all its numbers are. A sum in float64 copies what it adds up, so
    that of a whole embedding would be twice as large as the embedding in float32."""
    parts = weight.detach().reshape(-1).split(_CHECKED_AT_ONCE)
    return all(bool(torch.isfinite(part.sum(dtype=torch.float64))) for part in parts)


@torch.no_grad()
def check_is_causal(lm: LanguageModel) -> None:
    """Raise ModelError for a model whose states depend on later tokens, as an encoder's do."""
    ids = _probe_tokens(lm)[:12]
    changed = [*ids[:-1], (ids[-1] + 1) % _vocabulary(lm)]
    states = []
    with _without_autocast(lm), lm.precision_context():
        for row in (ids, changed):
            rows = torch.tensor([row], device=lm.device)
            states.append(lm.backbone(input_ids=rows, use_cache=False).last_hidden_state[0])
    before, after = (s[: len(ids) - 1].float() for s in states)
    allowed = 1e-4 if lm.weights_dtype == torch.float32 else 1e-2
    if float((before - after).abs().max()) > allowed * float(before.abs().max()):
        raise ModelError(
            f"{lm.name} is a {type(lm.inner).__name__} that reads the tokens behind a token too, "
            f"as an encoder does, so it gives no probability of a next token. Name a decoder, "
            f"such as Llama, Qwen, Gemma or Mistral."
        )


@torch.no_grad()
def check_packing(lm: LanguageModel) -> bool:
    """Whether packed states lead to the model's own logits or scores; sets `shares_prefixes`.

    Two prompts with two responses each go through the packed pass and through the plain
    model. Where they differ, as for state-space layers, the model falls back to plain rows.
    """
    token = _probe_tokens(lm)
    batch = pack(
        [
            PromptGroup(tuple(token[:5]), (tuple(token[5:9]), tuple(token[9:12]))),
            PromptGroup(tuple(token[12:15]), (tuple(token[15:20]), tuple(token[20:24]))),
        ],
        lm.device,
    )
    allowed = AGREEMENT.get(lm.weights_dtype, 0.2)
    with _without_autocast(lm):
        lm.shares_prefixes = False
        plain = _read_packed(lm, batch)
        if not bool(torch.isfinite(plain).all()):
            raise ModelError(
                f"{lm.name}: its numbers are not finite on plain tokens, though its weights are. "
                f"Load it with precision=fp32; if they are then too, its training diverged: name "
                f"an earlier checkpoint."
            )
        if not torch.allclose(plain, _read_rows(lm, batch), atol=allowed, rtol=allowed):
            raise ModelError(
                f"{lm.name}: the {type(lm.inner).__name__} logits are not its hidden states "
                f"times its output embeddings, so accord can't compute its log-probs. "
                f"Use a decoder with a plain vocabulary head."
            )
        lm.shares_prefixes = True
        lm.shares_prefixes = _packed_agrees(lm, batch, plain, allowed)
    return lm.shares_prefixes


@contextmanager
def _without_autocast(lm: LanguageModel) -> Iterator[None]:
    """A context in which the model computes in the precision of its weights."""
    precision, lm.precision = lm.precision, "fp32"
    try:
        yield
    finally:
        lm.precision = precision


def _vocabulary(lm: LanguageModel) -> int:
    return int(lm.inner.config.get_text_config().vocab_size)


def _probe_tokens(lm: LanguageModel) -> list[int]:
    return [(7 * i + 3) % _vocabulary(lm) for i in range(24)]


def _packed_agrees(lm: LanguageModel, batch: PackedBatch, plain: Tensor, allowed: float) -> bool:
    config = lm.inner.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) is not None:
        return False  # attends within chunks, which a short probe does not reach
    if _has_recurrent_state(config):
        return False  # carries a recurrent state, which untrained weights hide from the probe
    before = config._attn_implementation
    try:
        lm.inner.set_attn_implementation(NAME)
        lm.last_layer = LastLayer(lm.backbone)
        agrees = _is_close(lm, batch, plain, allowed)
        if not agrees:  # its last layer may be of another kind
            lm.last_layer.remove()
            lm.last_layer = None
            agrees = _is_close(lm, batch, plain, allowed)
    except ValueError:
        agrees = False
    if not agrees:
        lm.inner.set_attn_implementation(before)
    return agrees


def _has_recurrent_state(config: Any) -> bool:
    layers = DynamicCache(config=config).layers
    return any(hasattr(layer, "update_recurrent_state") for layer in layers)


def _is_close(lm: LanguageModel, batch: PackedBatch, plain: Tensor, allowed: float) -> bool:
    try:
        return bool(torch.allclose(_read_packed(lm, batch), plain, atol=allowed, rtol=allowed))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False


def _read_packed(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    return response_scores(lm, batch) if lm.scalar else response_logps(lm, batch)


def _read_rows(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The same numbers from the whole model, one row at a time, head included."""
    rows = []
    for group in batch.groups:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt, *response]], device=lm.device)
            if lm.scalar:
                hidden = lm.backbone(input_ids=ids, use_cache=False).last_hidden_state
                rows.append(lm.score_states(hidden)[0, -1:])
                continue
            logps = lm.inner(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            begin = len(group.prompt)
            target = torch.tensor(response, device=lm.device)[:, None]
            rows.append(logps[begin - 1 : -1].gather(1, target).squeeze(1))
    return torch.cat(rows)
