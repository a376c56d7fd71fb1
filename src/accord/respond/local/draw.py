"""Draws one token per row, by inverse transform sampling at given uniform numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.respond.protocol import SamplingSettings

CHUNK = 128  # vocabulary entries that are summed before single ones are cumulated
CPU_BLOCK = 1 << 20  # probabilities computed at a time on a CPU: as many as fit its cache
FIRST_TOP_K = 64  # tokens first sorted for top-p; eight times as many where they do not suffice


def draw_tokens(
    logits: Tensor, uniform: Tensor, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    """Token ids and log-probs (rows,) of logits (rows, V), at uniform (rows,) in [0, 1).

    The log-probs are those of the tempered distribution, before top-k, top-p (Holtzman et al.
    2020) and min-p (Nguyen et al. 2024) truncate it. A row's result does not depend on the others.
    Of a row with a logit that is NaN or +∞, the log-prob is NaN and the token any.
    """
    rows = len(logits)
    if logits.is_cuda:
        size = rows
    else:
        size = max(1, CPU_BLOCK // logits.shape[1])
    blocks = [
        _draw_block(logits[a : a + size], uniform[a : a + size], settings)
        for a in range(0, rows, size)
    ]
    return torch.cat([tokens for tokens, _ in blocks]), torch.cat([logps for _, logps in blocks])


def _draw_block(
    logits: Tensor, uniform: Tensor, settings: SamplingSettings
) -> tuple[Tensor, Tensor]:
    logits = logits.float()
    if settings.temperature == 0:
        token, largest = likeliest_tokens(logits)
        return token, largest - logits.logsumexp(1)
    if settings.temperature != 1.0:
        logits = logits / settings.temperature
    p = logits.softmax(1)
    truncated = p
    threshold = _lowest_probability(p, settings)
    if threshold is not None:
        truncated = p.masked_fill(p < threshold[:, None], 0.0)
    token = _invert_cdf(truncated, uniform)
    return token, p.gather(1, token[:, None]).squeeze(1).log()


def likeliest_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The token of the largest logit of each row (rows, V), the first of several, and that logit
    (rows,): NaN where one of the row is, and then the token is any.

    The largest logits of chunks give the chunk: a maximum takes a CPU a tenth of the time that its
    index takes.
    """
    rows, vocabulary = logits.shape
    if vocabulary % CHUNK:
        padding = logits.new_full((rows, -vocabulary % CHUNK), -torch.inf)
        logits = torch.cat([logits, padding], 1)
    chunks = logits.view(rows, -1, CHUNK)
    best = chunks.amax(2).argmax(1)
    entries = chunks[torch.arange(rows, device=logits.device), best]
    largest, offset = entries.max(1)
    return (best * CHUNK + offset).clamp(max=vocabulary - 1), largest


def _invert_cdf(p: Tensor, uniform: Tensor) -> Tensor:
    """The first token (rows,) at which the cumulated masses p (rows, V) exceed uniform · their sum.

    The sums of chunks give the chunk, then its entries give the token, both in float64: a cumulated
    sum over the whole vocabulary costs more than a small model's layers.
    """
    whole = p.shape[1] // CHUNK * CHUNK
    sums = p[:, :whole].unflatten(1, (-1, CHUNK)).sum(2)
    if whole < p.shape[1]:
        sums = torch.cat([sums, p[:, whole:].sum(1, keepdim=True)], 1)
    mass = sums.double().cumsum(1)
    chunk = _first_index_above(mass, uniform.double() * mass[:, -1])
    start = chunk[:, None]
    before = mass.gather(1, start) - sums.double().gather(1, start)
    share = ((uniform.double() * mass[:, -1])[:, None] - before) / sums.double().gather(1, start)
    columns = start * CHUNK + torch.arange(CHUNK, device=p.device)
    is_valid = columns < p.shape[1]
    entries = p.gather(1, columns.clamp(max=p.shape[1] - 1)) * is_valid
    mass = entries.double().cumsum(1)
    offset = _first_index_above(mass, share.squeeze(1).clamp(0, 1) * mass[:, -1])
    return (chunk * CHUNK + offset).clamp(max=p.shape[1] - 1)


def _first_index_above(mass: Tensor, threshold: Tensor) -> Tensor:
    """The first column (rows,) whose cumulated mass (rows, n) is above a threshold (rows,).

    It is at most the first column that reaches the total, so no column without mass is returned.
    Of masses that are NaN it is some column: an index out of bounds would end a CUDA process.
    """
    index = torch.searchsorted(mass, threshold[:, None], right=True)
    index = torch.minimum(index, torch.searchsorted(mass, mass[:, -1:].contiguous()))
    return index.squeeze(1).clamp(max=mass.shape[1] - 1)


def _lowest_probability(p: Tensor, settings: SamplingSettings) -> Tensor | None:
    """The probability (rows,) below which tokens are removed; None where all stay.

    Top-k, top-p and min-p each set a lowest probability, so equal tokens stay or go together,
    whatever their order. As in transformers, top-p applies to the mass that top-k leaves.
    """
    bounds = []
    top_k = settings.top_k if settings.top_k and settings.top_k < p.shape[1] else None
    if top_k is not None:
        ordered = p.topk(top_k, dim=1).values
        bounds.append(
            ordered[:, -1] if settings.top_p == 1 else _nucleus_bound(ordered, settings.top_p)
        )
    elif settings.top_p < 1:
        bounds.append(_unsorted_nucleus_bound(p, settings.top_p))
    if settings.min_p > 0:
        bounds.append(settings.min_p * p.amax(1))
    return torch.stack(bounds).amax(0) if bounds else None


def _nucleus_bound(ordered: Tensor, top_p: float, total: Tensor | None = None) -> Tensor:
    """The lowest probability (rows,) of the nucleus of probabilities (rows, n), largest first.

    The nucleus is the fewest likeliest tokens whose mass reaches top_p · `total` (rows, 1), by
    default the mass of `ordered`.
    """
    mass = ordered.double().cumsum(1)
    target = top_p * (mass[:, -1:] if total is None else total)
    index = torch.searchsorted(mass, target).clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, index).squeeze(1)


def _unsorted_nucleus_bound(p: Tensor, top_p: float) -> Tensor:
    """`_nucleus_bound` of unsorted rows (rows, V).

    In most rows a few tokens hold the nucleus, so only those are sorted, and more where needed.
    """
    bounds = p.new_empty(len(p))
    pending = torch.arange(len(p), device=p.device)
    count = FIRST_TOP_K
    while len(pending):
        rows = p[pending]
        if count >= p.shape[1]:
            ordered = rows.sort(1, descending=True).values
            total = ordered.new_ones(len(rows), 1).double()
            bounds[pending] = _nucleus_bound(ordered, top_p, total)
            break
        ordered = rows.topk(count, dim=1).values
        enough = ordered.double().sum(1) >= top_p
        total = ordered.new_ones(int(enough.sum()), 1).double()
        bounds[pending[enough]] = _nucleus_bound(ordered[enough], top_p, total)
        pending, count = pending[~enough], count * 8
    return bounds
