"""Attention of responses that grow by a token a step, over key-value memory of its own.

The next tokens of R responses go through the model as a flat row of R tokens, as in a packed batch.
Attention alone needs the past: each response's own tokens, and the prompt, which is held once for
all responses to it. The two are attended to apart and merged by their log-sum-exps (as in
Juravsky et al. 2024, "Hydragen"), so that the K queries of a prompt are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from accord.lm.attention.plan import Scores

FIRST_ROOM = 64  # tokens that memory begins with; it doubles where more is needed
SPAN = 8  # rows that are attended to together, as wide as the longest of them
WORTH = 0.8  # of all rows' padded memory: spans must read less of it than this
HIDDEN = -1e30  # added to the score of a key that is not seen; finite, so that none is NaN


# An attention module, and which of its calls in a pass: a model may go through a layer again.
Layer = tuple[nn.Module, int]


@dataclass
class Calls:
    """Counts the calls of each attention module in one pass through a model."""

    made: dict[nn.Module, int] = field(default_factory=dict)

    def next(self, module: nn.Module) -> Layer:
        self.made[module] = self.made.get(module, 0) + 1
        return module, self.made[module]


@dataclass
class KeyValueStore:
    """Keys and values (rows, G, room, D) of each attention layer, for sequences of many lengths.

    What no row has written is zero. Rows and room grow as they are needed. `dtype` is the memory's
    own precision; by default that of what is written.
    """

    dtype: torch.dtype | None = None
    layers: dict[Layer, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, layer: Layer, row: int, keys: Tensor, values: Tensor) -> None:
        """Write a row's first tokens, keys and values (G, n, D)."""
        for buffer, new in zip(
            self._with_room(layer, keys, row + 1, keys.shape[1]), (keys, values), strict=True
        ):
            buffer[row, :, : new.shape[1]] = new

    def append(
        self, layer: Layer, step: DecodeStep, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write a token of each row, keys and values (R, G, D), where the step says; returns all
        so far (R, G, width, D)."""
        rows, width = len(keys), step.width
        buffers = self._with_room(layer, keys.transpose(0, 1), rows, width)
        for buffer, new in zip(buffers, (keys, values), strict=True):
            if step.together:
                buffer[:rows, :, width - 1] = new
            else:
                where = step.places(*buffer.shape[1:3])
                flat = new.flatten(0, 1).to(buffer.dtype)
                buffer.view(-1, buffer.shape[3]).index_copy_(0, where, flat)
        return self.read(layer, rows, width)

    def read(self, layer: Layer, rows: int, width: int) -> tuple[Tensor, Tensor]:
        """The first `width` tokens of the first rows."""
        keys, values = self.layers[layer]
        return keys[:rows, :, :width], values[:rows, :, :width]

    def move(self, sources: Sequence[int], targets: Sequence[int], width: int) -> None:
        """Copy the first `width` tokens of rows to where others were."""
        for buffers in self.layers.values():
            for buffer in buffers:
                for source, target in zip(sources, targets, strict=True):
                    buffer[target, :, :width] = buffer[source, :, :width]

    def _with_room(
        self, layer: Layer, like: Tensor, rows: int, width: int
    ) -> tuple[Tensor, Tensor]:
        """The layer's buffers, made or enlarged; `like` (G, n, D) tells their kind."""
        old = self.layers.get(layer)
        if old is not None and old[0].shape[0] >= rows and old[0].shape[2] >= width:
            return old
        held, room = (0, FIRST_ROOM) if old is None else (old[0].shape[0], old[0].shape[2])
        rows = max(rows, held if held >= rows else 2 * held)
        while room < width:
            room *= 2
        shape = (rows, like.shape[0], room, like.shape[2])
        new = tuple(like.new_zeros(shape, dtype=self.dtype or like.dtype) for _ in range(2))
        for buffer, before in zip(new, old or (), strict=False):
            buffer[: before.shape[0], :, : before.shape[2]] = before
        self.layers[layer] = (new[0], new[1])
        return self.layers[layer]


@dataclass
class Prefill:
    """Where the keys and values of a packed batch's prompts go: prompt i into row `rows[i]`.

    The batch holds prompts alone; `starts` are their first flat tokens and the end of the last.
    """

    store: KeyValueStore
    rows: Sequence[int]
    starts: Sequence[int]
    calls: Calls = field(default_factory=Calls)

    def keep(self, module: nn.Module, keys: Tensor, values: Tensor) -> None:
        """Take a layer's keys and values (G, T, D)."""
        layer = self.calls.next(module)
        parts = list(zip(self.rows, pairwise(self.starts), strict=True))
        for row, (a, b) in reversed(parts):  # room for the last is room for all
            self.store.keep(layer, row, keys[:, a:b], values[:, a:b])


@dataclass(frozen=True)
class PrefixCache:
    """Which prompt (a row of its own store) each of R responses follows: `prompt_of` (R,), and
    the prompts' lengths (Q,). Made anew only when responses come or go."""

    store: KeyValueStore
    prompt_of: Tensor
    lengths: Tensor
    gather: Tensor = field(init=False)  # (Q, K) a prompt's responses, padded with 0
    back: Tensor = field(init=False)  # (R,) where among the Q·K each response is

    def __post_init__(self) -> None:
        device, rows = self.prompt_of.device, self.prompt_of.cpu()
        counts = torch.bincount(rows, minlength=len(self.lengths))
        order = rows.argsort(stable=True)
        first = counts.cumsum(0) - counts
        place = torch.empty_like(rows)
        place[order] = torch.arange(len(rows)) - first[rows[order]]
        widest = int(counts.max())
        back = rows * widest + place
        gather = torch.zeros(len(counts) * widest, dtype=torch.long)
        gather[back] = torch.arange(len(rows))
        object.__setattr__(self, "gather", gather.view(-1, widest).to(device))
        object.__setattr__(self, "back", back.to(device))

    @cached_property
    def width(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def padding(self) -> Tensor | None:
        """True (Q, 1, P) where a prompt has ended; None where all are as long."""
        hidden = torch.arange(self.width, device=self.lengths.device) >= self.lengths[:, None]
        return hidden[:, None] if bool(hidden.any()) else None


@dataclass
class DecodeStep:
    """A token more of each of R responses, the r-th written as token at[r] of row r.

    Without `sharing` a row holds its prompt too.
    """

    store: KeyValueStore
    at: Tensor
    sharing: PrefixCache | None = None
    masks: dict[tuple[str, int | None, torch.dtype, int], Tensor | None] = field(
        default_factory=dict
    )
    flat: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)

    @cached_property
    def width(self) -> int:
        return int(self.at.max()) + 1

    @cached_property
    def together(self) -> bool:
        """Whether all rows write at one place."""
        return int(self.at.min()) == self.width - 1

    @cached_property
    def spans(self) -> list[tuple[int, int, int]]:
        """Rows [a, b) that are attended to at once, and how many tokens they have at most.

        Rows of like length stand together at first, so on a CPU a few are less to read than all.
        """
        everything = [(0, len(self.at), self.width)]
        if self.at.device.type != "cpu":
            return everything
        lengths = (self.at + 1).tolist()
        spans = []
        for a in range(0, len(lengths), SPAN):
            part = lengths[a : a + SPAN]
            spans.append((a, a + len(part), max(part)))
        read = sum((b - a) * width for a, b, width in spans)
        return spans if read < WORTH * len(lengths) * self.width else everything

    def places(self, groups: int, room: int) -> Tensor:
        """Where (R · G,) each row's token goes in flat memory (rows · G · room)."""
        if (groups, room) not in self.flat:
            heads = torch.arange(len(self.at) * groups, device=self.at.device).view(-1, groups)
            self.flat[groups, room] = (heads * room + self.at[:, None]).flatten()
        return self.flat[groups, room]

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attention (R, H, D) of query (R, H, D) to its past; key and value (R, G, D) are kept."""
        (rows, heads, dim), groups = query.shape, key.shape[1]
        layer = self.calls.next(module)
        keys, values = self.store.append(layer, self, key, value)
        mask = self._mask("own", scores.window, keys.dtype, 1)
        own = query.view(rows, groups, -1, dim).to(keys.dtype)
        parts = [
            _partial(
                own[a:b],
                keys[a:b, :, :width],
                values[a:b, :, :width],
                None if mask is None else mask[a:b, ..., :width],
                scores,
            )
            for a, b, width in self.spans
        ]
        found = [parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))]
        if self.sharing is not None:
            found.append(self._of_prompts(layer, query, groups, scores))
        outs = [o.reshape(rows, heads, -1) for o, _ in found]
        sums = [s.reshape(rows, heads) for _, s in found]
        if sinks is not None:
            sums.append(sinks.float().expand(rows, heads))
        if len(sums) == 1:
            return outs[0].to(query.dtype)
        share = torch.stack(sums).softmax(0)[..., None]
        out = outs[0] * share[0]
        for i, more in enumerate(outs[1:], 1):
            out += more * share[i]
        return out.to(query.dtype)

    def _of_prompts(
        self, layer: Layer, query: Tensor, groups: int, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        sharing = self.sharing
        assert sharing is not None
        (count, most), (_, heads, dim) = sharing.gather.shape, query.shape
        shared = heads // groups
        q = query.index_select(0, sharing.gather.flatten())
        q = q.view(count, most, groups, shared, dim).transpose(1, 2)
        q = q.reshape(count, groups, most * shared, dim)
        keys, values = sharing.store.read(layer, count, sharing.width)
        mask = self._mask("prompt", scores.window, query.dtype, shared)
        out, sums = _partial(q, keys, values, mask, scores)
        out = out.reshape(count, groups, most, shared, -1).transpose(1, 2)
        sums = sums.reshape(count, groups, most, shared).transpose(1, 2)
        return (
            out.reshape(count * most, heads, -1).index_select(0, sharing.back),
            sums.reshape(count * most, heads).index_select(0, sharing.back),
        )

    def _mask(self, of: str, window: int | None, dtype: torch.dtype, shared: int) -> Tensor | None:
        """What is added to scores (n, 1, queries, keys), the same in all layers; None: all seen."""
        if window is not None and not self._beyond(window):
            window = None
        key = (of, window, dtype, shared)
        if key not in self.masks:
            hidden = self._own_hidden(window) if of == "own" else self._prompt_hidden(window)
            if hidden is not None and hidden.shape[1] > 1:
                hidden = hidden.repeat_interleave(shared, 1)
            self.masks[key] = None if hidden is None else hidden[:, None].to(dtype) * HIDDEN
        return self.masks[key]

    def _beyond(self, window: int) -> bool:
        """Whether some row has a past that is longer than the window."""
        prompt = 0 if self.sharing is None else self.sharing.width
        return self.width + prompt > window

    def _own_hidden(self, window: int | None) -> Tensor | None:
        at, column = self.at[:, None], torch.arange(self.width, device=self.at.device)
        hidden = column > at
        if window is not None:
            hidden = hidden | (column <= at - window)
        return hidden[:, None] if bool(hidden.any()) else None

    def _prompt_hidden(self, window: int | None) -> Tensor | None:
        sharing = self.sharing
        assert sharing is not None
        if window is None:
            return sharing.padding
        position = self.at[sharing.gather] + sharing.lengths[:, None]  # (Q, K)
        column = torch.arange(sharing.width, device=self.at.device)
        hidden = column <= position[..., None] - window
        return hidden if sharing.padding is None else hidden | sharing.padding


def _partial(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scores: Scores
) -> tuple[Tensor, Tensor]:
    """Attention (n, G, Lq, D) to some of the keys, and the log of the weights' sum (n, G, Lq)."""
    if scores.softcap is None and q.device.type == "cpu":
        if mask is not None:
            mask = mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, False, attn_mask=mask, scale=scores.scale
        )
        return out, sums
    s = (q @ k.transpose(-1, -2)).float() * scores.scale
    if scores.softcap is not None:
        s = scores.softcap * torch.tanh(s / scores.softcap)
    if mask is not None:
        s = s + mask
    sums = s.logsumexp(-1)
    return (s - sums[..., None]).exp().to(v.dtype) @ v, sums
