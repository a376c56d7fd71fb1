"""What is compared between rows, in temporary files: memory does not grow with the texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from accord.measure.rows.near_duplicates import BAND, HASHES, Signatures
from accord.measure.rows.noise import DENSE, PairFeatures
from accord.runs.storage import storage_errors

_BANDS = HASHES // BAND
_ROW = 2 * HASHES  # 16-bit hashes of a record: of its prompt, then of its responses


class Spill:
    """Arrays that are appended to files in `folder`, and read back in pieces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._pieces: list[tuple[int, int]] = []  # pairs, and their words, of each piece

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Write the values behind those that the file has. Raises StorageError."""
        with storage_errors(self.folder / name):
            if name not in self._files:
                self._files[name] = (self.folder / name).open("w+b")
            self._files[name].write(np.ascontiguousarray(values).tobytes())

    def add_signatures(
        self, prompts: NDArray[np.uint32], responses: NDArray[np.uint32], bands: NDArray[np.uint32]
    ) -> None:
        """Signatures [D, 64] of prompts and responses, and their band keys [D, 16]."""
        both = np.concatenate([prompts, responses], axis=1).astype(np.uint16)
        self.append("signatures", both)
        for band in range(_BANDS):
            self.append(f"band{band}", bands[:, band])

    def bands(self) -> Iterator[NDArray[np.uint32]]:
        """The keys of all records, a band at a time."""
        for band in range(_BANDS):
            yield self._read(f"band{band}", np.dtype(np.uint32), 0, -1)

    def signatures(self, records: NDArray[np.int64]) -> tuple[Signatures, Signatures]:
        """The signatures of the prompts and of the responses of some records, each [N, 64]."""
        unique, index = np.unique(records, return_inverse=True)
        rows = np.stack(
            [self._read("signatures", np.dtype(np.uint16), int(i) * _ROW, _ROW) for i in unique]
        )[index]
        return rows[:, :HASHES], rows[:, HASHES:]

    def add_features(self, records: NDArray[np.int64], features: PairFeatures) -> None:
        """The features of pairs, and the records that they are of."""
        self._pieces.append((len(records), len(features.index)))
        for name, values in (
            ("records", records),
            ("index", features.index),
            ("sign", features.sign),
            ("counts", features.counts),
            ("dense", features.dense),
        ):
            self.append(name, values)

    def features(self) -> Iterator[tuple[NDArray[np.int64], PairFeatures]]:
        """What `add_features` added, a piece at a time."""
        pair = word = 0
        for pairs, words in self._pieces:
            yield (
                self._read("records", np.dtype(np.int64), pair, pairs),
                PairFeatures(
                    self._read("index", np.dtype(np.uint16), word, words),
                    self._read("sign", np.dtype(np.int8), word, words),
                    self._read("counts", np.dtype(np.int64), pair, pairs),
                    self._read("dense", np.dtype(np.float32), pair * DENSE, pairs * DENSE).reshape(
                        pairs, DENSE
                    ),
                ),
            )
            pair, word = pair + pairs, word + words

    @property
    def pairs(self) -> int:
        """The number of pairs whose features were added."""
        return sum(pairs for pairs, _ in self._pieces)

    def _read(self, name: str, dtype: np.dtype[Any], start: int, count: int) -> Any:
        if name not in self._files:
            return np.empty(0, dtype)
        file = self._files[name]
        file.seek(start * dtype.itemsize)  # flushes what was appended
        data = file.read() if count < 0 else file.read(count * dtype.itemsize)
        file.seek(0, 2)
        return np.frombuffer(data, dtype)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
