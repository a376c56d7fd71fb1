"""Shared-prefix attention, registered with transformers so that any decoder can use it.

The linear layers of a model see a packed batch flat. Attention alone needs to know which tokens
see which: `AttentionPlan`. On a CPU `blocks` executes a plan, on a CUDA device `flex`; while
responses are sampled, `decoding` stores the keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from accord.lm.attention.blocks import BlockAttention
from accord.lm.attention.decoding import DecodeStep
from accord.lm.attention.flex import flex_packed
from accord.lm.attention.plan import AttentionPlan, ScoreOptions
from accord.lm.attention.reuse import CapturedPrefix, RecordedCall, ReusedPrefix, with_past
from accord.lm.attention.store import Prefill

NAME = "accord"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed: AttentionPlan | None = None,
    memory: Prefill | DecodeStep | CapturedPrefix | ReusedPrefix | RecordedCall | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, T, D), key and value (1, G, T, D).

    `s_aux` (H,) are attention sinks: a logit each head may attend to that has no value (gpt-oss).
    `memory` stores the keys and values of this pass (Prefill, CapturedPrefix) or provides those of
    an earlier one (DecodeStep, ReusedPrefix). Without a plan (sampling from transformers' cache)
    keys and mask are those that transformers passes.
    Dropout is never applied. Returns (1, T, H, D).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings may be float32
    options = ScoreOptions(scale, softcap, sliding_window)
    if isinstance(memory, DecodeStep):
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        return memory.attend(module, q, k, v, options, s_aux)[None], None
    if isinstance(memory, RecordedCall):
        memory.tensors, memory.options, memory.sinks = (query, key, value), options, s_aux
        return memory.output, None
    new_tokens, past = query.shape[2], None
    if isinstance(memory, Prefill):
        past = memory.write(module, key[0], value[0])
    elif isinstance(memory, CapturedPrefix):
        memory.capture(key, value)
    if packed is None:
        if softcap is None and s_aux is None:
            out, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, dropout=0.0, **kwargs
            )
            return out, None
        return _masked_attention(query, key, value, attention_mask, scale, softcap, s_aux), None
    if query.is_cuda:
        out = flex_packed(
            query,
            key,
            value,
            packed,
            scale=scale,
            softcap=softcap,
            window=sliding_window,
            sinks=s_aux,
        )
        return out.transpose(1, 2), None
    if isinstance(memory, ReusedPrefix):
        query, key, value = memory.with_past(query, key, value)
    elif past is not None:
        query, key, value = with_past(past[0][None], past[1][None], query, key, value)
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    by_token = [x[0].transpose(0, 1) for x in (query, key, value)]
    out = BlockAttention.apply(*by_token, s_aux, packed, options)
    return out[-new_tokens:].unsqueeze(0), None


def _masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Plain attention (n, Lq, H, D) of q (n, H, Lq, D), k and v (n, G, Lk, D), under
    transformers' mask; with softcap and sinks."""
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    s = q @ k.transpose(-1, -2) * scale
    if cap is not None:
        s = cap * torch.tanh(s / cap)
    if mask is None and q.shape[-2] > 1:  # transformers omits a plain causal mask
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        # Finite, since a padded query sees no key, and its NaN would reach the others as 0·NaN.
        s = s.masked_fill(~mask, torch.finfo(s.dtype).min)
    elif mask is not None:
        s = s + mask
    if sinks is not None:
        s = torch.cat([s, sinks.to(s.dtype).view(1, -1, 1, 1).expand(*s.shape[:3], 1)], -1)
    weights = s.softmax(-1, dtype=torch.float32).to(q.dtype)
    if sinks is not None:
        weights = weights[..., :-1]
    return (weights @ v).transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
