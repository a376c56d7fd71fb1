"""The responses of a record, in the order of its ranks, and which of them are desirable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from accord.errors import DataError
from accord.records import Comparison, Ranking, Rating, Record, labels_from_ranks


def desirability(record: Record, ranks: Sequence[int], desirable_from: float) -> dict[int, bool]:
    """Whether each response is desirable, by its index, without those that are neither."""
    if isinstance(record, Rating):
        return {0: record.score >= desirable_from}
    labels = enumerate(labels_from_ranks(ranks))
    return {k: label for k, label in labels if label is not None}


def preference_label(record: Record) -> dict[str, Any]:
    """What a record says of its preference beside the ranks, as a `PromptGroup` has it: the margin
    and the soft label of a comparison, the votes on a ranking."""
    if isinstance(record, Comparison):
        return {"margin": record.margin, "probability": record.probability}
    return {"votes": record.votes} if isinstance(record, Ranking) else {}


class RecordResponse(NamedTuple):
    """A response as its record has it."""

    text: str
    rank: int
    finished: bool
    fields: str

    @property
    def is_empty(self) -> bool:
        return not self.text.strip() and not self.fields


def read_responses(record: Record) -> list[RecordResponse]:
    """The responses of a record. Raises DataError for one that has none."""
    if isinstance(record, Rating):
        return [RecordResponse(record.response, 0, record.finished, record.fields)]
    if isinstance(record, Comparison):
        return [
            RecordResponse(record.chosen, 0, record.chosen_finished, record.chosen_fields),
            RecordResponse(record.rejected, 1, record.rejected_finished, record.rejected_fields),
        ]
    if isinstance(record, Ranking):
        finished = record.finished or (True,) * len(record.ranks)
        fields = record.fields or ("",) * len(record.ranks)
        columns = zip(record.responses, record.ranks, finished, fields, strict=True)
        return [RecordResponse(*response) for response in columns]
    raise DataError(f"{record.source}: a {type(record).__name__} has no response to learn from.")
