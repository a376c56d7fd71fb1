"""The local engine: one prefill a prompt, its key-value memory shared out to its K responses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from accord.lm.model import LanguageModel
from accord.respond.cache import sampling_cache
from accord.respond.protocol import Sample, Sampler, SamplingSettings

COMPACT_AT = 0.5  # finished rows leave the batch once so large a share of it is finished


def local_sampler(lm: LanguageModel) -> Sampler:
    """A Sampler (`respond.protocol`) on a loaded model."""

    def sample(
        prompts: Sequence[tuple[int, ...]],
        settings: SamplingSettings,
        *,
        seed: int,
        streams: Sequence[int],
    ) -> list[list[Sample]]:
        found: list[list[Sample]] = [[] for _ in prompts]
        training = lm.model.training
        lm.model.eval()  # in training mode checkpointed layers drop their key-value memory
        try:
            for members in _batches(prompts, settings):
                results = _sample_batch(
                    lm,
                    [prompts[i] for i in members],
                    settings,
                    _uniforms(seed, [streams[i] for i in members], settings),
                )
                for i, samples in zip(members, results, strict=True):
                    found[i] = samples
        finally:
            lm.model.train(training)
        return found

    return sample


def _batches(prompts: Sequence[tuple[int, ...]], settings: SamplingSettings) -> Iterator[list[int]]:
    """Prompts of like length together, so that little of a batch is padding."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    size = max(1, settings.batch_size // settings.num_responses)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _uniforms(seed: int, streams: Sequence[int], settings: SamplingSettings) -> Tensor:
    """Uniform draws (prompts · K, max_new_tokens), each row from a generator of its own."""
    shape = (settings.num_responses, settings.max_new_tokens)
    draws = [np.random.Generator(np.random.Philox(key=[seed, s])).random(shape) for s in streams]
    return torch.from_numpy(np.concatenate(draws))


@torch.no_grad()
def _sample_batch(
    lm: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    settings: SamplingSettings,
    uniforms: Tensor,
) -> list[list[Sample]]:
    k, width = settings.num_responses, max(len(p) for p in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):  # on the left, so that all responses begin together
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    device = lm.device
    ids, mask = ids.to(device), mask.to(device)
    cache = sampling_cache(lm.inner.config, width + settings.max_new_tokens)
    logits = _logits(lm, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    # Beam search's call: all kinds of layers have it, state-space ones too.
    cache.reorder_cache(torch.arange(len(prompts), device=device).repeat_interleave(k))
    logits = logits.repeat_interleave(k, 0)
    mask = mask.repeat_interleave(k, 0)
    position = mask.sum(1, keepdim=True)

    rows = len(prompts) * k
    tokens = torch.zeros(rows, settings.max_new_tokens, dtype=torch.long)
    logps = torch.zeros(rows, settings.max_new_tokens)
    lengths = torch.full((rows,), settings.max_new_tokens)
    ended = torch.zeros(rows, dtype=torch.bool)
    active = torch.arange(rows)  # which response each row of the batch is
    eos = torch.tensor(sorted(lm.eos_ids))
    for step in range(settings.max_new_tokens):
        token, logp = draw(logits.cpu(), uniforms[active, step], settings)
        live = ~ended[active]
        tokens[active[live], step] = token[live]
        logps[active[live], step] = logp[live]
        now = active[live & torch.isin(token, eos)]
        lengths[now], ended[now] = step + 1, True
        if bool(ended.all()) or step + 1 == settings.max_new_tokens:
            break
        keep = ~ended[active]
        if keep.float().mean() <= COMPACT_AT:
            rows_kept = keep.nonzero().squeeze(1).to(device)
            cache.reorder_cache(rows_kept)
            active, token = active[keep], token[keep]
            mask, position = mask[rows_kept], position[rows_kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = _logits(lm, token[:, None].to(device), mask, position, cache)
        position = position + 1
    return [
        [
            Sample(
                tuple(tokens[r, : lengths[r]].tolist()),
                tuple(logps[r, : lengths[r]].tolist()),
                bool(ended[r]),
            )
            for r in range(i * k, (i + 1) * k)
        ]
        for i in range(len(prompts))
    ]


def _logits(
    lm: LanguageModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:
    """Next-token logits (rows, V) in float32 after the last of ids (rows, n)."""
    memory = "past_key_values"
    # Pure state-space models name their memory otherwise, would ignore the usual name, and take
    # the mask of the new tokens alone.
    if "cache_params" in inspect.signature(lm.backbone.forward).parameters:
        memory, mask = "cache_params", mask[:, -ids.shape[1] :]
    with lm.compute():
        hidden = lm.backbone(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **{memory: cache},
        ).last_hidden_state[:, -1]
    return lm.head.logits(hidden)


def draw(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """One token a row by inverting the distribution function at a uniform, and its log-prob.

    logits (rows, V), uniform (rows,) in [0, 1); returns token ids and log-probs (rows,), the
    latter under the tempered distribution, before top-p (Holtzman et al. 2020) cuts it.
    """
    if settings.temperature == 0:
        logp = logits.log_softmax(1)
        token = logits.argmax(1)
        return token, logp.gather(1, token[:, None]).squeeze(1)
    logp = (logits / settings.temperature).log_softmax(1)
    p = logp.double().exp()
    if settings.top_p < 1:
        ordered, index = p.sort(dim=1, descending=True)
        outside = ordered.cumsum(1) - ordered >= settings.top_p
        p = p.scatter(1, index, ordered.masked_fill(outside, 0.0))
    mass = p.cumsum(1)
    threshold = uniform.double()[:, None] * mass[:, -1:]
    token = torch.searchsorted(mass, threshold, right=True).squeeze(1)
    token = token.clamp(max=logits.shape[1] - 1)
    return token, logp.gather(1, token[:, None]).squeeze(1)
