"""Builds a table of battles from batches, some of whose texts are in memory at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from accord.data.battle_columns import BattleBatch
from accord.measure.ratings.answer_style import STYLES, answer_styles
from accord.measure.ratings.style import relative_difference
from accord.measure.ratings.table import BattleTable, Integers
from accord.reasoning import split_reasoning

NO_CATEGORY = "(no category)"
LONG_NAME = 64  # bytes
LEAST_ANSWERS = 5  # identical answers to fewer prompts may be a coincidence


@dataclass(slots=True)
class TableBuilder:
    """Collects batches; `table` has them in the order in which they came."""

    names: defaultdict[str, int] = field(default_factory=lambda: _numbering())
    prompts: list[pa.Array] = field(default_factory=list)
    categories: defaultdict[str, int] = field(default_factory=lambda: _numbering())
    columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[str, tuple[bytes, set[str]] | None] = field(default_factory=dict)

    def add(self, batch: BattleBatch) -> None:
        """Add a batch of battles, all of which have texts and categories, or none."""
        self.columns["a"].append(_numbers(batch.model_a, self.names))
        self.columns["b"].append(_numbers(batch.model_b, self.names))
        self.columns["outcome"].append(batch.outcome)
        self.prompts.append(_prompt_names(batch.prompt))
        if batch.category is not None:
            named = [name or NO_CATEGORY for name in batch.category]
            self.columns["category"].append(_numbers(named, self.categories))
        if batch.texts is not None:
            sides = [answer_styles(texts) for texts in batch.texts]
            first, second = (side.T for side in sides)
            differences = [relative_difference(x, y) for x, y in zip(first, second, strict=True)]
            self.columns["style"].append(np.stack(differences[: len(STYLES)], axis=1))
            self.columns["lengths"].append(np.stack([side[:, -1] for side in sides], axis=1))
            for models, texts in zip((batch.model_a, batch.model_b), batch.texts, strict=True):
                self._note_answers(models, texts, batch.prompt)

    @property
    def battles(self) -> int:
        """The number of battles."""
        return sum(map(len, self.columns["outcome"]))

    def clear(self) -> None:
        """Forget all battles."""
        for collected in (self.names, self.prompts, self.categories, self.columns, self.answers):
            collected.clear()

    def table(self) -> BattleTable:
        """The table. Its prompts are absent where a battle names none, or each is alone on its
        prompt, so that single battles are independent."""
        order, names = _sorted(self.names)
        category_order, categories = _sorted(self.categories)
        prompt, number, unnamed = _prompt_numbers(self.prompts)
        alone = unnamed or number == len(prompt)
        category = self.columns.get("category")
        style, lengths = (self.columns.get(key) for key in ("style", "lengths"))
        return BattleTable(
            names,
            order[_joined(self.columns["a"])],
            order[_joined(self.columns["b"])],
            _joined(self.columns["outcome"]),
            None if alone else prompt,
            categories,
            category_order[_joined(category)] if category else None,
            STYLES if style else (),
            np.concatenate(style) if style else None,
            np.concatenate(lengths) if lengths else None,
        )

    def constant_models(self) -> list[str]:
        """The models that gave one and the same answer to every prompt, of several."""
        return sorted(
            name
            for name, known in self.answers.items()
            if known is not None and len(known[1]) >= LEAST_ANSWERS
        )

    def _note_answers(
        self,
        models: Sequence[str] | pa.Array,
        texts: Sequence[str],
        prompts: Sequence[str] | pa.Array,
    ) -> None:
        for name, text, prompt in zip(_listed(models), texts, _listed(prompts), strict=True):
            known = self.answers.get(name, (b"", set()))
            if known is None:
                continue
            answer = split_reasoning(text).answer or ""
            digest = blake2b(answer.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if known[1] and digest != known[0]:
                self.answers[name] = None
                continue
            known[1].add(prompt or str(len(known[1])))
            self.answers[name] = (digest, known[1])


def _numbering() -> defaultdict[str, int]:
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return numbers


def _numbers(values: Sequence[str] | pa.Array, known: defaultdict[str, int]) -> Integers:
    """The number of each value, in the order in which they first came."""
    if not isinstance(values, pa.Array):
        return np.array([known[value] for value in values], dtype=np.int64)
    array = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    numbers = np.array([known[value] for value in array.dictionary.to_pylist()], dtype=np.int64)
    codes: Integers = numbers[array.indices.to_numpy(zero_copy_only=False)]
    return codes


def _listed(values: Sequence[str] | pa.Array) -> Sequence[str]:
    return values.to_pylist() if isinstance(values, pa.Array) else values


def _prompt_names(values: Sequence[str] | pa.Array) -> pa.Array:
    """The prompts' names, long ones by their digests, so that memory stays flat."""
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    if (pa.compute.max(pa.compute.binary_length(array)).as_py() or 0) <= LONG_NAME:
        return array
    return pa.array([_short(name) for name in array.to_pylist()], pa.string())


def _short(name: str) -> str:
    encoded = name.encode()
    return name if len(encoded) <= LONG_NAME else blake2b(encoded, digest_size=16).hexdigest()


def _prompt_numbers(parts: Sequence[pa.Array]) -> tuple[Integers, int, bool]:
    """The number of each battle's prompt, how many prompts there are, whether one is unnamed."""
    if not parts:
        return np.zeros(0, dtype=np.int64), 0, True
    encoded = pa.chunked_array(parts, pa.string()).dictionary_encode().combine_chunks()
    unnamed = bool(pa.compute.equal(encoded.dictionary, "").sum().as_py())
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, len(encoded.dictionary), unnamed


def _sorted(known: dict[str, int]) -> tuple[Integers, tuple[str, ...]]:
    """The new number of each old one, and the names in their order."""
    names = tuple(sorted(known))
    order = np.zeros(len(names), dtype=np.int64)
    order[[known[name] for name in names]] = np.arange(len(names))
    return order, names


def _joined(parts: Sequence[Integers]) -> Integers:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
