"""Shared-prefix attention on a CUDA device, by FlexAttention: one kernel for a whole packed batch.

Dong et al. 2024, "Flex Attention". Whether one token sees another is a function of their two flat
indices; blocks without any visible pair are skipped. A soft cap modifies the scores, sinks modify
the output.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from accord.lm.attention.plan import AttentionPlan


def flex_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention (1, H, T, D) of query (1, H, T, D), key and value (1, G, T, D), sinks (H,)."""
    # A number would be compiled as an unknown one, for which the kernel falls apart.
    cap = torch.full((), softcap or 1.0, device=query.device)

    def cap_score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    options: dict[str, Any] = {}
    if sinks is not None:  # an older torch has another name, whose warning compiles again here
        is_new = hasattr(flex, "AuxRequest")
        options = {"return_aux": flex.AuxRequest(lse=True)} if is_new else {"return_lse": True}
    result = _kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else cap_score,
        block_mask=block_mask(plan, window, query.device),
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        **options,
    )
    if sinks is None:
        return cast(Tensor, result)
    out, lse = result[0], getattr(result[1], "lse", result[1])
    # exp(lse) is the sum over keys; with the sink s it is exp(lse) + exp(s).
    share = torch.sigmoid(lse - sinks.to(lse.dtype)[None, :, None])
    return out * share[..., None].to(out.dtype)


def block_mask(plan: AttentionPlan, window: int | None, device: torch.device) -> BlockMask:
    """A token sees the prompt of its group and its response, up to itself and in the window."""
    if window not in plan.block_masks:
        group, response, position = (x.to(device) for x in plan.token_coordinates())

        def is_visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            seen = (k <= q) & (group[q] == group[k])
            seen = seen & ((response[k] < 0) | (response[k] == response[q]))
            return seen if window is None else seen & (position[q] - position[k] < window)

        plan.block_masks[window] = create_block_mask(
            is_visible,
            B=None,
            H=None,
            Q_LEN=plan.num_tokens,
            KV_LEN=plan.num_tokens,
            device=str(device),
        )
    mask: BlockMask = plan.block_masks[window]
    return mask


@cache
def _kernel(device: str) -> Any:
    # Without compilation it is plain matrices, which the tests use on a CPU.
    if device != "cuda":
        return flex_attention
    # A kernel for each of: with and without gradient, window, precision, one block of tokens or
    # more. Past torch's limit of 8 all further calls would be plain matrices.
    config: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(getattr(config, name), 32))
    return torch.compile(flex_attention, dynamic=True)
