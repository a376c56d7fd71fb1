"""Decoding with transformers' own key-value memory, for models that can't share prompts.

State-space layers and their like keep states that only the model's own cache knows. Prompts are
padded on the left, read once, and their memory is copied to each of the K responses.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from accord.lm.model import LanguageModel
from accord.respond.local.cache import sampling_cache
from accord.respond.local.draw import draw
from accord.respond.local.responses import Responses

COMPACT_AT = 0.5  # finished rows leave the batch once so large a share of it is finished


def write_padded(
    lm: LanguageModel, prompts: Sequence[tuple[int, ...]], responses: Responses
) -> None:
    """Write all responses, in batches of prompts of like length, so that little is padding."""
    settings = responses.settings
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    size = max(1, settings.batch_size // settings.num_responses)
    for start in range(0, len(order), size):
        _write_batch(lm, prompts, responses, order[start : start + size])


def _write_batch(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    responses: Responses,
    members: Sequence[int],
) -> None:
    settings, device = responses.settings, lm.device
    k, width = settings.num_responses, max(len(prompts[i]) for i in members)
    ids = torch.zeros(len(members), width, dtype=torch.long)
    mask = torch.zeros(len(members), width, dtype=torch.long)
    for row, i in enumerate(members):  # on the left, so that all responses begin together
        ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
        mask[row, width - len(prompts[i]) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = sampling_cache(lm.inner.config, width + settings.max_new_tokens)
    logits = _logits(lm, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    # Beam search's call: all kinds of layers have it, state-space ones too.
    cache.reorder_cache(torch.arange(len(members), device=device).repeat_interleave(k))
    logits = logits.repeat_interleave(k, 0)
    mask = mask.repeat_interleave(k, 0)
    position = mask.sum(1, keepdim=True)
    active = torch.tensor([i * k + j for i in members for j in range(k)])  # each row's response
    over = torch.zeros(len(active), dtype=torch.bool)
    while True:
        going = ~over
        own = active[going]
        token, logp = draw(logits[going.to(device)], responses.uniform(own).to(device), settings)
        over[going] = responses.take(own, token.cpu(), logp.cpu())
        if bool(over.all()):
            return
        if over.float().mean() >= COMPACT_AT:
            kept = (~over).nonzero().squeeze(1)
            active, over = active[kept], over[kept]
            kept = kept.to(device)
            cache.reorder_cache(kept)
            mask, position = mask[kept], position[kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        token = responses.last_token(active)
        logits = _logits(lm, token[:, None].to(device), mask, position, cache)
        position = position + 1


def _logits(
    lm: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    """Next-token logits (rows, V) in float32 after the last of ids (rows, n)."""
    memory = "past_key_values"
    # Pure state-space models name their memory otherwise, would ignore the usual name, and take
    # the mask of the new tokens alone.
    if "cache_params" in inspect.signature(lm.backbone.forward).parameters:
        memory, mask = "cache_params", mask[:, -ids.shape[1] :]
    hidden = lm.backbone(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        **{memory: cache},
    ).last_hidden_state[:, -1]
    with torch.autocast(hidden.device.type, enabled=False):  # as the training pass does it
        return lm.head.logits(hidden)
