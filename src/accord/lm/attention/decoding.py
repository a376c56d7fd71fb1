"""Attention of responses that grow by one token per step, over a KV cache per row and per prompt.

The next tokens of R responses go through the model as one flat row of R tokens, as in a packed
batch. Attention alone needs the past: the tokens of each response, and the prompt, which is stored
once for all its responses. Both are attended to separately and merged by their log-sum-exps (as in
Juravsky et al. 2024, "Hydragen"), so that the K queries of a prompt are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from accord.lm.attention.plan import MASKED_SCORE, ScoreOptions
from accord.lm.attention.store import CallCounter, KeyValueStore, LayerKey

SPAN_ROWS = 8  # rows attended to in one call, padded to the longest of them
MAX_SPAN_READ = 0.8  # spans are used where they read less than this share of the padded store


@dataclass(frozen=True)
class PrefixCache:
    """The prompts that R responses follow: response r that in row `prompt_index[r]` of the
    prompts' store; `lengths` (Q,) are the prompts' lengths. Rebuilt only when responses are added
    or removed. An index of −1 marks a response whose row of the step's own store has its prompt."""

    store: KeyValueStore
    prompt_index: Tensor
    lengths: Tensor
    response_index: Tensor = field(init=False)  # (Q, K) each prompt's responses, padded with 0
    rows: Tensor | None = field(init=False)  # (N,) the responses with a prompt here; None: all
    query_index: Tensor = field(init=False)  # (N,) the index of each of `rows` among the Q·K

    def __post_init__(self) -> None:
        device, prompts = self.prompt_index.device, self.prompt_index.cpu()
        rows = (prompts >= 0).nonzero().flatten()
        is_whole = len(rows) == len(prompts)
        prompts = prompts[rows]
        counts = torch.bincount(prompts, minlength=len(self.lengths))
        order = prompts.argsort(stable=True)
        first = counts.cumsum(0) - counts
        rank = torch.empty_like(prompts)  # of a response among those to its prompt
        rank[order] = torch.arange(len(prompts)) - first[prompts[order]]
        widest = int(counts.max())
        query_index = prompts * widest + rank
        response_index = torch.zeros(len(counts) * widest, dtype=torch.long)
        response_index[query_index] = rows
        object.__setattr__(self, "response_index", response_index.view(-1, widest).to(device))
        object.__setattr__(self, "rows", None if is_whole else rows.to(device))
        object.__setattr__(self, "query_index", query_index.to(device))

    @cached_property
    def width(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def padding(self) -> Tensor | None:
        """True (Q, 1, P) after a prompt's end; None where all prompts have the same length."""
        masked = torch.arange(self.width, device=self.lengths.device) >= self.lengths[:, None]
        return masked[:, None] if bool(masked.any()) else None


@dataclass
class DecodeStep:
    """The next token of each of R responses, written at position `positions[r]` of row r.

    Without a `prefix_cache` a row of the store contains its prompt too.
    """

    store: KeyValueStore
    positions: Tensor
    prefix_cache: PrefixCache | None = None
    masks: dict[tuple[str, int | None, torch.dtype, int], Tensor | None] = field(
        default_factory=dict
    )
    write_index: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    calls: CallCounter = field(default_factory=CallCounter)

    @cached_property
    def width(self) -> int:
        return int(self.positions.max()) + 1

    @cached_property
    def has_equal_positions(self) -> bool:
        """Whether all rows write at the same position."""
        return int(self.positions.min()) == self.width - 1

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """Rows [a, b) that are attended to in one call, and the length of the longest of them.

        Rows of similar length are neighbours at first, so on a CPU a few rows at a time read less
        than all rows padded to the longest.
        """
        everything = [(0, len(self.positions), self.width)]
        if self.positions.device.type != "cpu":
            return everything
        lengths = (self.positions + 1).tolist()
        spans = []
        for a in range(0, len(lengths), SPAN_ROWS):
            part = lengths[a : a + SPAN_ROWS]
            spans.append((a, a + len(part), max(part)))
        read = sum((b - a) * width for a, b, width in spans)
        return spans if read < MAX_SPAN_READ * len(lengths) * self.width else everything

    @cached_property
    def row_index(self) -> Tensor:
        return torch.arange(len(self.positions), device=self.positions.device)

    def flat_write_index(self, groups: int, capacity: int) -> Tensor:
        """The index (R · G,) of each row's token in a flat buffer of rows · G · capacity tokens."""
        if (groups, capacity) not in self.write_index:
            device = self.positions.device
            heads = torch.arange(len(self.positions) * groups, device=device).view(-1, groups)
            index = (heads * capacity + self.positions[:, None]).flatten()
            self.write_index[groups, capacity] = index
        return self.write_index[groups, capacity]

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        options: ScoreOptions,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention (R, H, D) of query (R, H, D) to all tokens so far; key and value (R, G, D) are
        stored first."""
        (rows, heads, dim), groups = query.shape, key.shape[1]
        layer = self.calls.next(module)
        keys, values = self.store.append(layer, self, key, value)
        mask = self._mask("row", options.window, keys.dtype, 1)
        grouped = query.view(rows, groups, -1, dim).to(keys.dtype)
        is_alone = self.prefix_cache is None and sinks is None
        attention: Callable[..., tuple[Tensor, Tensor]] = _partial_attention
        if self.store.transposes_keys:
            attention = partial(_batched_attention, with_lse=not is_alone)
        parts = [
            attention(
                grouped[a:b],
                keys[a:b, :, :width],
                values[a:b, :, :width],
                None if mask is None else mask[a:b, ..., :width],
                options,
            )
            for a, b, width in self.spans
        ]
        if is_alone:
            out = parts[0][0] if len(parts) == 1 else torch.cat([out for out, _ in parts])
            return out.reshape(rows, heads, -1).to(query.dtype)
        partials = [
            parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
        ]
        if self.prefix_cache is not None:
            partials.append(self._attend_to_prompts(layer, query, groups, options))
        outs = [out.reshape(rows, heads, -1) for out, _ in partials]
        lses = [lse.reshape(rows, heads) for _, lse in partials]
        if sinks is not None:
            lses.append(sinks.float().expand(rows, heads))
        share = torch.stack(lses).softmax(0)[..., None]
        merged = outs[0] * share[0]
        for i, out in enumerate(outs[1:], 1):
            merged += out * share[i]
        return merged.to(query.dtype)

    def _attend_to_prompts(
        self, layer: LayerKey, query: Tensor, groups: int, options: ScoreOptions
    ) -> tuple[Tensor, Tensor]:
        cache = self.prefix_cache
        assert cache is not None
        (prompts, per_prompt), (_, heads, dim) = cache.response_index.shape, query.shape
        shared = heads // groups
        q = query.index_select(0, cache.response_index.flatten())
        q = q.view(prompts, per_prompt, groups, shared, dim).transpose(1, 2)
        q = q.reshape(prompts, groups, per_prompt * shared, dim)
        keys, values = cache.store.read(layer, prompts, cache.width)
        mask = self._mask("prompt", options.window, query.dtype, shared)
        out, lse = _partial_attention(q, keys, values, mask, options)
        out = out.reshape(prompts, groups, per_prompt, shared, -1).transpose(1, 2)
        lse = lse.reshape(prompts, groups, per_prompt, shared).transpose(1, 2)
        out = out.reshape(prompts * per_prompt, heads, -1).index_select(0, cache.query_index)
        lse = lse.reshape(prompts * per_prompt, heads).index_select(0, cache.query_index)
        if cache.rows is None:
            return out, lse
        # A response without a prompt here gives it no weight.
        return (
            out.new_zeros(len(query), *out.shape[1:]).index_copy_(0, cache.rows, out),
            lse.new_full((len(query), heads), MASKED_SCORE).index_copy_(0, cache.rows, lse),
        )

    def _mask(
        self, keys: str, window: int | None, dtype: torch.dtype, shared: int
    ) -> Tensor | None:
        """The additive mask (n, 1, queries, keys) over the keys of the `row` or the `prompt`, the
        same in all layers; None where no key is masked."""
        if window is not None and not self._exceeds_window(window):
            window = None
        key = (keys, window, dtype, shared)
        if key not in self.masks:
            masked = self._row_mask(window) if keys == "row" else self._prompt_mask(window)
            if masked is not None and masked.shape[1] > 1:
                masked = masked.repeat_interleave(shared, 1)
            self.masks[key] = None if masked is None else masked[:, None].to(dtype) * MASKED_SCORE
        return self.masks[key]

    def _exceeds_window(self, window: int) -> bool:
        """Whether some row may have more tokens than the window."""
        prompt = 0 if self.prefix_cache is None else self.prefix_cache.width
        return self.width + prompt > window

    def _row_mask(self, window: int | None) -> Tensor | None:
        positions = self.positions[:, None]
        column = torch.arange(self.width, device=self.positions.device)
        masked = column > positions
        if window is not None:
            masked = masked | (column <= positions - window)
        return masked[:, None] if bool(masked.any()) else None

    def _prompt_mask(self, window: int | None) -> Tensor | None:
        cache = self.prefix_cache
        assert cache is not None
        if window is None:
            return cache.padding
        position = self.positions[cache.response_index] + cache.lengths[:, None]  # (Q, K)
        column = torch.arange(cache.width, device=self.positions.device)
        masked = column <= position[..., None] - window
        return masked if cache.padding is None else masked | cache.padding


def _partial_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: ScoreOptions
) -> tuple[Tensor, Tensor]:
    """Attention (n, G, Lq, D) to some of the keys, and the logsumexp of their scores (n, G, Lq)."""
    if options.softcap is None and q.device.type == "cpu":
        if mask is not None:
            mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=mask, scale=options.scale
        )
        return out, lse
    s = (q @ k.transpose(-1, -2)).float() * options.scale
    if options.softcap is not None:
        s = options.softcap * torch.tanh(s / options.softcap)
    if mask is not None:
        s = s + mask
    lse = s.logsumexp(-1)
    return (s - lse[..., None]).exp().to(v.dtype) @ v, lse


def _batched_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: ScoreOptions, *, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """`_partial_attention` of few queries and transposed keys, as two batched products; the
    logsumexp is empty unless it is wanted.

    A fused kernel computes each head of each row by products of its own, for which it copies the
    keys. With weights p = exp(s − lse), lse = s − log p at the largest score.
    """
    n, groups, queries, _ = q.shape
    s = torch.bmm((q * options.scale).flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
    if options.softcap is not None:
        s.div_(options.softcap).tanh_().mul_(options.softcap)
    s = s.view(n, groups, queries, -1)
    if mask is not None:
        s += mask
    p = s.softmax(-1)
    out = torch.bmm(p.flatten(0, 1), v.flatten(0, 1)).view(n, groups, queries, -1)
    return out, s.amax(-1) - p.amax(-1).log() if with_lse else out.new_empty(0)
