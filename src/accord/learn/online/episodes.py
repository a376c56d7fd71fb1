"""Episodes: responses of the policy to prompts, K to each, and what was measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from accord.learn.loop.passes import deal
from accord.learn.loop.processes import Processes
from accord.lm.packing import PromptGroup

MEASURED = ("old_logps", "known", "ref_logps", "values", "entropy")  # by passes over the episodes


@dataclass(frozen=True, slots=True)
class Episodes:
    """P prompts with K responses each: E = P·K episodes, episode e is response e % K of prompt
    e // K. On each response token (E, T), masked: log-probs under the policy that took part in
    sampling, under the engine that sampled and under the reference, critic's values, entropy.

    scores (E,) are the reward's, and `by_source` the parts they were summed of; finished (E,) says
    which responses ended with EOS. `known` (E,) says whose old log-probs and entropies are known;
    those of the others are filled in by the first training pass over them, whose own they are.
    `off_policy`: another engine sampled.
    """

    groups: tuple[PromptGroup, ...]
    texts: tuple[str, ...]
    mask: Tensor
    scores: Tensor
    finished: Tensor
    sampler_logps: Tensor
    old_logps: Tensor
    known: Tensor
    ref_logps: Tensor | None = None
    values: Tensor | None = None
    entropy: Tensor | None = None
    off_policy: bool = False
    by_source: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)

    @property
    def in_group(self) -> int:
        """K."""
        return len(self.scores) // len(self.groups)

    def rows_of(self, members: Sequence[int]) -> list[int]:
        """The episodes of some prompts."""
        k = self.in_group
        return [e for p in members for e in range(p * k, (p + 1) * k)]


def grid_mask(lengths: Sequence[int]) -> Tensor:
    """(E, T) bools: True on the first lengths[e] cells of row e."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def to_grid(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of response tokens (R,), in order of response and token, on the grid (E, T)."""
    grid = torch.zeros(mask.shape, dtype=flat.dtype)
    grid[mask] = flat.cpu()
    return grid


def fill(grid: Tensor, rows: Sequence[int], mask: Tensor, flat: Tensor) -> None:
    """Put values (R,) of some rows' tokens, in order, in their cells of the grid (E, T)."""
    grid[list(rows)] = to_grid(flat.detach(), mask[list(rows)])


def share_rows(episodes: Episodes, rows: Sequence[int], team: Processes) -> None:
    """Give all processes what each has measured on rows of its own."""
    if team.world_size == 1:
        return
    grids = {n: getattr(episodes, n) for n in MEASURED if getattr(episodes, n) is not None}
    own = {name: grid[list(rows)] for name, grid in grids.items()}
    for places, found in team.all_gather((list(rows), own)):
        for name, values in found.items():
            grids[name][places] = values


def part_of(groups: Sequence[PromptGroup], rows: Sequence[int]) -> list[PromptGroup]:
    """The token groups that hold some episodes, given in order; each prompt is there once."""
    k = len(groups[0].responses)
    found: list[PromptGroup] = []
    for prompt, members in _by_prompt(rows, k):
        group = groups[prompt]
        found.append(
            replace(group, responses=tuple(group.responses[e % k] for e in members), ranks=())
        )
    return found


def _by_prompt(rows: Sequence[int], k: int) -> Iterator[tuple[int, list[int]]]:
    members: list[int] = []
    for e in rows:
        if members and members[0] // k != e // k:
            yield members[0] // k, members
            members = []
        members.append(e)
    if members:
        yield members[0] // k, members


def passes_of(
    groups: Sequence[PromptGroup],
    members: Sequence[int],
    *,
    count: int,
    most: int | None,
    team: Processes = Processes(),  # noqa: B008 - frozen
) -> list[list[int]]:
    """The episodes of some prompts, dealt by tokens to `count` forward passes of at most `most`.

    A prompt's responses stay together, but where they alone have more tokens than that. Of several
    processes each has `count` passes, and is told its own; where prompts are few, it may be none.
    """
    units = [unit for p in members for unit in _units(groups[p], p, most)]
    sizes = [_tokens(groups, unit) for unit in units]
    count = min(len(units), count * team.world_size)
    dealt = deal(sizes, count, most=most, multiple=team.world_size)
    own = dealt[team.rank :: team.world_size]
    return [sorted(e for u in part for e in units[u]) for part in own]


def _units(group: PromptGroup, prompt: int, most: int | None) -> Iterator[list[int]]:
    """A prompt's episodes, in as many runs as keep each within `most` tokens."""
    k = len(group.responses)
    run: list[int] = []
    tokens = len(group.prompt)
    for place, response in enumerate(group.responses):
        if run and most is not None and tokens + len(response) > most:
            yield run
            run, tokens = [], len(group.prompt)
        run.append(prompt * k + place)
        tokens += len(response)
    yield run


def _tokens(groups: Sequence[PromptGroup], rows: Sequence[int]) -> int:
    return sum(g.num_tokens for g in part_of(groups, rows))
