"""The reference's log-probs of all rows: computed once, and read from the user's cache."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from accord.errors import StorageError
from accord.learn.loop.processes import Processes
from accord.learn.loop.schedule import own_passes, row_batches
from accord.lm.digest import rows_digest, weights_digest
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.lm.tokens.token_rows import target_counts, token_counts
from accord.runs import digest_json
from accord.runs.activity import with_activity
from accord.runs.atomic import write_bytes_atomic
from accord.runs.cache import cache_folder, remove_oldest

log = logging.getLogger(__name__)

MAX_CACHED = 64  # sets of log-probs in the cache
DIGEST = "[0-9a-f]" * 32  # the names of cached sets
LAYOUT = 2  # version of the files and of what is computed
SHARD_ROWS = 4096  # rows of a file
OPEN_SHARDS = 64
PROBED_ROWS = 4  # rows computed again before a cached set is trusted
# Mean difference, in nats a token, that other batching may cause.
AGREEMENT = {"fp32": 1e-3, "bf16": 0.05}


@torch.no_grad()
def compute_log_probs(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    *,
    batch_size: int,
    max_tokens: int | None = None,
    procs: Processes = Processes(),  # noqa: B008 - frozen
    activity: str = "reference, batch",
) -> list[Tensor]:
    """Each row's token log-probs (its R,) under the model's present weights, on the CPU; computed
    `batch_size` rows at a time, or fewer where these have more than `max_tokens`.

    Several processes take the batches in turn; all of them return all rows.
    """
    computed: dict[int, Tensor] = {}
    sizes = token_counts(groups).tolist()
    batches = list(row_batches(sizes, batch_size, max_tokens=max_tokens))
    turns = list(own_passes(batches, procs, lockstep=lm.sharded is not None))
    for rows, _ in with_activity(turns, activity, len(turns)):
        batch = pack([groups[i] for i in rows], lm.device)
        logps = response_logps(lm, batch).cpu()
        counts = [groups[i].num_targets for i in rows]
        computed.update(zip(rows, logps.split(counts), strict=True))
    for shard in procs.all_gather(computed):
        computed.update(shard)
    return [computed[i] for i in range(len(groups))]


def cached_log_probs(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    *,
    batch_size: int,
    max_tokens: int | None = None,
    procs: Processes = Processes(),  # noqa: B008 - frozen
) -> Sequence[Tensor]:
    """`compute_log_probs` in files of SHARD_ROWS rows, some perhaps of an earlier run.

    The cache key is a digest of everything that determines them: weights and configuration, the
    rows' token ids (so texts, template and limits), and precision. A few rows are computed again
    before cached ones are trusted; if they differ, all rows are. A run that was killed goes on
    behind the files that it had written. If the cache can't be written, a warning is logged, and
    the log-probs stay in memory.
    """
    key = digest_json(
        {
            "layout": LAYOUT,
            "weights": weights_digest(lm),
            "rows": rows_digest(groups),
            "precision": lm.precision,
        }
    )
    rows = RowLogProbs(cache_folder("reference") / key[:32], target_counts(groups))
    done = rows.share(procs)
    if done and not procs.broadcast(
        _agrees(lm, groups, rows, done, batch_size=batch_size, max_tokens=max_tokens)
    ):  # the main process decides, or some would continue alone
        log.warning("The cached log-probs in %s are another model's; computed again.", rows.folder)
        done = []
    for number in range(rows.num_shards):
        if number in done:
            continue
        of_shard = rows.range_of(number)
        computed = compute_log_probs(
            lm,
            groups[of_shard.start : of_shard.stop],
            batch_size=batch_size,
            max_tokens=max_tokens,
            procs=procs,
            activity=f"reference, of rows {of_shard.start + 1:,} to {of_shard.stop:,} of "
            f"{len(groups):,}, batch",
        )
        rows.set_shard(number, torch.cat(computed), write=procs.is_main)
        rows.share(procs, [number])
    if len(done) == rows.num_shards:
        log.info("The reference log-probs of %d rows come from the cache.", len(groups))
    elif procs.is_main:
        remove_oldest(rows.folder.parent, MAX_CACHED, DIGEST)
    return rows


@dataclass(slots=True)
class RowLogProbs(Sequence[Tensor]):
    """Each row's token log-probs, read from its shard's file when they are asked for."""

    folder: Path
    counts: NDArray[np.int32]
    _in_memory: dict[int, Tensor] = field(default_factory=dict)
    _open: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    _starts: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        number, index_in_shard = divmod(row, SHARD_ROWS)
        starts = self._starts.get(number)
        if starts is None:
            starts = np.cumsum([0, *self._counts_of(number)])
            self._starts[number] = starts
        values: Tensor = self._values(number)[
            int(starts[index_in_shard]) : int(starts[index_in_shard + 1])
        ]
        return values

    @property
    def num_shards(self) -> int:
        return -(-len(self) // SHARD_ROWS)

    def range_of(self, number: int) -> range:
        """The rows of a shard."""
        return range(number * SHARD_ROWS, min(len(self), (number + 1) * SHARD_ROWS))

    def set_shard(self, number: int, values: Tensor, *, write: bool) -> None:
        """Set the log-probs of a shard's rows; kept in memory until `share` sees the file."""
        self._open.pop(number, None)
        self._in_memory[number] = values
        if write:
            try:
                write_bytes_atomic(self._path(number), save({"logps": values}))
            except (OSError, StorageError) as error:
                log.warning("The reference log-probs are not cached for later runs: %s", error)

    def share(self, procs: Processes, numbers: Sequence[int] | None = None) -> list[int]:
        """The shards (of `numbers`, or of all) that every process now has.

        A process that does not see the main process's file, as on another machine, has the values
        in memory.
        """
        procs.broadcast(None)  # the main process has written what it writes
        if numbers is None:
            readable_shards = [
                n for n in range(self.num_shards) if procs.is_main and self._is_readable(n)
            ]
            numbers = procs.broadcast(readable_shards)
        for number in numbers:
            readable = self._is_readable(number)
            if not all(procs.all_gather(readable or number in self._in_memory)):
                values = procs.broadcast(self._values(number)[:] if procs.is_main else None)
                if not readable:
                    self._in_memory[number] = values
            if readable:
                self._in_memory.pop(number, None)
        return list(numbers)

    def _counts_of(self, number: int) -> NDArray[np.int32]:
        rows = self.range_of(number)
        return self.counts[rows.start : rows.stop]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _is_readable(self, number: int) -> bool:
        path = self._path(number)
        if not path.is_file():
            return False
        expected = [int(self._counts_of(number).sum())]
        try:
            with safe_open(path, "pt") as file:
                values = file.get_slice("logps")
                if values.get_shape() == expected and values.get_dtype() == "F32":
                    return True
            reason = "it has another shape"
        except (OSError, SafetensorError) as error:
            reason = str(error)
        log.warning("%s can't be read (%s); computed again.", path, reason)
        return False

    def _values(self, number: int) -> Any:
        """A shard's flat values: a tensor, or a file's, of which slices are read."""
        if number in self._in_memory:
            return self._in_memory[number]
        file = self._open.pop(number, None)
        if file is None:
            file = safe_open(self._path(number), "pt").__enter__()
        self._open[number] = file
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return file.get_slice("logps")


def _agrees(
    lm: LanguageModel,
    groups: Sequence[PromptGroup],
    cached: RowLogProbs,
    shards: Sequence[int],
    *,
    batch_size: int,
    max_tokens: int | None,
) -> bool:
    rows = [i for number in shards for i in cached.range_of(number)]
    probed = rows[:: max(1, len(rows) // PROBED_ROWS)][:PROBED_ROWS]
    computed = compute_log_probs(
        lm, [groups[i] for i in probed], batch_size=batch_size, max_tokens=max_tokens
    )
    difference = torch.cat(computed) - torch.cat([cached[i] for i in probed])
    return bool(difference.abs().mean() <= AGREEMENT[lm.precision])
