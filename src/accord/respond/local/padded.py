"""Decoding with transformers' KV cache, for models that can't share prompt prefixes.

State-space layers and similar ones store states that only the model's own cache supports. Prompts
are left-padded, read once, and their cache is copied to each of the K responses.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from accord.lm.model import LanguageModel
from accord.respond.local.cache import preallocated_cache
from accord.respond.local.draw import draw_tokens
from accord.respond.local.memory import rows_in_memory
from accord.respond.local.responses import Responses

COMPACT_AT = 0.5  # share of finished rows at which they are removed from the batch


def generate_padded(
    lm: LanguageModel, prompts: Sequence[tuple[int, ...]], responses: Responses
) -> None:
    """Generate all responses, in batches of prompts of similar length, so padding stays small."""
    settings = responses.settings
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    longest = max(map(len, prompts)) + settings.max_new_tokens
    rows = rows_in_memory(lm, settings.batch_size, longest)
    size = max(1, rows // settings.num_responses)
    for start in range(0, len(order), size):
        _generate_batch(lm, prompts, responses, order[start : start + size])


def _generate_batch(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    responses: Responses,
    batch: Sequence[int],
) -> None:
    settings, device = responses.settings, lm.device
    k, width = settings.num_responses, max(len(prompts[i]) for i in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for row, i in enumerate(batch):  # padded on the left, so that all responses begin together
        ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
        mask[row, width - len(prompts[i]) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = preallocated_cache(lm.inner.config, width + settings.max_new_tokens)
    logits = next_logits(lm, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    # Beam search's call: all kinds of layers have it, state-space ones too.
    cache.reorder_cache(torch.arange(len(batch), device=device).repeat_interleave(k))
    logits = logits.repeat_interleave(k, 0)
    mask = mask.repeat_interleave(k, 0)
    position = mask.sum(1, keepdim=True)
    rows = torch.tensor([i * k + j for i in batch for j in range(k)])  # each row's response
    finished = torch.zeros(len(rows), dtype=torch.bool)
    while True:
        active = ~finished
        active_rows = rows[active]
        uniform = responses.next_uniforms(active_rows).to(device)
        token, logp = draw_tokens(logits[active.to(device)], uniform, settings)
        finished[active] = responses.append_tokens(active_rows, token.cpu(), logp.cpu())
        if bool(finished.all()):
            return
        if finished.float().mean() >= COMPACT_AT:
            remaining = (~finished).nonzero().squeeze(1)
            rows, finished = rows[remaining], finished[remaining]
            remaining = remaining.to(device)
            cache.reorder_cache(remaining)
            mask, position = mask[remaining], position[remaining]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        token = responses.last_tokens(rows)
        logits = next_logits(lm, token[:, None].to(device), mask, position, cache)
        position = position + 1


def next_logits(
    lm: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    """Next-token logits (rows, V) in float32 after the last of ids (rows, n)."""
    cache_argument = "past_key_values"
    # Pure state-space models name their cache otherwise, would ignore the usual name, and take
    # the mask of the new tokens alone.
    if "cache_params" in inspect.signature(lm.backbone.forward).parameters:
        cache_argument, mask = "cache_params", mask[:, -ids.shape[1] :]
    hidden = lm.backbone(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        **{cache_argument: cache},
    ).last_hidden_state[:, -1]
    with torch.autocast(hidden.device.type, enabled=False):  # as in the training pass
        return lm.head.logits(hidden)
