"""One token a row, by inverting the distribution function at a uniform number."""

from __future__ import annotations

import torch
from torch import Tensor

from accord.respond.protocol import SamplingSettings

CHUNK = 128  # vocabulary entries whose mass is summed before any is looked at
BLOCK = 1 << 20  # probabilities computed at a time on a CPU: what its cache takes
FIRST_TOP = 64  # tokens first looked at for top-p; eight times as many where they do not suffice


def draw(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Token ids and log-probs (rows,) of logits (rows, V), at uniform (rows,) in [0, 1).

    The log-probs are those of the tempered distribution, before top-k, top-p (Holtzman et al.
    2020) and min-p (Nguyen et al. 2024) cut it. What a row gets does not depend on the others.
    """
    rows = len(logits)
    if logits.is_cuda:
        size = rows
    else:
        size = max(1, BLOCK // logits.shape[1])
    found = [
        _draw(logits[a : a + size], uniform[a : a + size], settings) for a in range(0, rows, size)
    ]
    return torch.cat([t for t, _ in found]), torch.cat([p for _, p in found])


def _draw(logits: Tensor, uniform: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    logits = logits.float()
    if settings.temperature == 0:
        token = logits.argmax(1, keepdim=True)
        logp = logits.gather(1, token).squeeze(1) - logits.logsumexp(1)
        return token.squeeze(1), logp
    if settings.temperature != 1.0:
        logits = logits / settings.temperature
    p = logits.softmax(1)
    kept = p
    threshold = _threshold(p, settings)
    if threshold is not None:
        kept = p.masked_fill(p < threshold[:, None], 0.0)
    token = _invert(kept, uniform)
    return token, p.gather(1, token[:, None]).squeeze(1).log()


def _invert(p: Tensor, uniform: Tensor) -> Tensor:
    """The first token (rows,) at which the cumulated masses p (rows, V) pass uniform · their sum.

    First the chunk is found, by the sums of chunks, then the token in it, both in float64: a
    cumulated sum over the whole vocabulary costs more than a small model's layers.
    """
    whole = p.shape[1] // CHUNK * CHUNK
    sums = p[:, :whole].unflatten(1, (-1, CHUNK)).sum(2)
    if whole < p.shape[1]:
        sums = torch.cat([sums, p[:, whole:].sum(1, keepdim=True)], 1)
    mass = sums.double().cumsum(1)
    chunk = _first_above(mass, uniform.double() * mass[:, -1])
    start = chunk[:, None]
    before = mass.gather(1, start) - sums.double().gather(1, start)
    part = ((uniform.double() * mass[:, -1])[:, None] - before) / sums.double().gather(1, start)
    columns = start * CHUNK + torch.arange(CHUNK, device=p.device)
    inside = columns < p.shape[1]
    own = p.gather(1, columns.clamp(max=p.shape[1] - 1)) * inside
    mass = own.double().cumsum(1)
    place = _first_above(mass, part.squeeze(1).clamp(0, 1) * mass[:, -1])
    return chunk * CHUNK + place


def _first_above(mass: Tensor, threshold: Tensor) -> Tensor:
    """The first column (rows,) whose cumulated mass (rows, n) is above a threshold (rows,).

    At most the one that reaches the whole, so that nothing of no mass is ever found.
    """
    found = torch.searchsorted(mass, threshold[:, None], right=True)
    return torch.minimum(found, torch.searchsorted(mass, mass[:, -1:].contiguous())).squeeze(1)


def _threshold(p: Tensor, settings: SamplingSettings) -> Tensor | None:
    """The probability (rows,) that a token must have to be kept; None where all are.

    Each cut is a lowest probability, so which of several equal tokens is kept never depends on an
    order: all are. As in transformers, top-p counts the mass that top-k leaves.
    """
    bounds = []
    top_k = settings.top_k if settings.top_k and settings.top_k < p.shape[1] else None
    if top_k is not None:
        ordered = p.topk(top_k, dim=1).values
        bounds.append(ordered[:, -1] if settings.top_p == 1 else _nucleus(ordered, settings.top_p))
    elif settings.top_p < 1:
        bounds.append(_growing_nucleus(p, settings.top_p))
    if settings.min_p > 0:
        bounds.append(settings.min_p * p.amax(1))
    return torch.stack(bounds).amax(0) if bounds else None


def _nucleus(ordered: Tensor, top_p: float, total: Tensor | None = None) -> Tensor:
    """The smallest of the likeliest tokens (rows, n, sorted) whose mass reaches top_p of all."""
    mass = ordered.double().cumsum(1)
    target = top_p * (mass[:, -1:] if total is None else total)
    place = torch.searchsorted(mass, target).clamp(max=ordered.shape[1] - 1)
    return ordered.gather(1, place).squeeze(1)


def _growing_nucleus(p: Tensor, top_p: float) -> Tensor:
    """`_nucleus` of whole rows (rows, V): few tokens hold the mass of most, so few are sorted."""
    out = p.new_empty(len(p))
    left = torch.arange(len(p), device=p.device)
    count = FIRST_TOP
    while len(left):
        rows = p[left]
        if count >= p.shape[1]:
            ordered = rows.sort(1, descending=True).values
            out[left] = _nucleus(ordered, top_p, ordered.new_ones(len(rows), 1).double())
            break
        ordered = rows.topk(count, dim=1).values
        enough = ordered.double().sum(1) >= top_p
        out[left[enough]] = _nucleus(
            ordered[enough], top_p, ordered.new_ones(int(enough.sum()), 1).double()
        )
        left, count = left[~enough], count * 8
    return out
