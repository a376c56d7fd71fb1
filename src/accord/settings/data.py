"""The settings of the rows that a training stage reads: columns, numbers, mixtures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from accord.settings.base import InputPath, Settings, UnlessDefault
from accord.settings.verdicts import Filter

ColumnNames = Annotated[
    dict[str, str] | None,
    UnlessDefault,
    Field(
        description="The data set's columns by the names that they are read as, such as "
        "`{prompt: question, chosen: good}`."
    ),
]
MaxSamples = Annotated[
    int | None, UnlessDefault, Field(ge=1, description="Use at most this many rows of `dataset`.")
]
MaxEvalSamples = Annotated[
    int | None,
    UnlessDefault,
    Field(ge=1, description="Use at most this many rows of each held-out data set."),
]
SamplesFrom = Annotated[
    Literal["start", "anywhere"],
    UnlessDefault,
    Field(
        description="Which rows `max_samples` and `max_eval_samples` use: the first ones, or a "
        "random choice by `seed`."
    ),
]
Streaming = Annotated[
    bool,
    UnlessDefault,
    Field(
        description="Read the first `max_samples` rows of a hub data set without downloading all "
        "of it; of held-out rows `max_eval_samples`."
    ),
]


class MixtureSource(Settings):
    """A further data set, whose rows are learned together with those of `dataset`."""

    dataset: Annotated[str, InputPath] = Field(
        description="As the stage's `dataset`: a file, a folder, a hub name, or a preference store."
    )
    weight: float | None = Field(
        None,
        gt=0,
        description="Share of its rows, relative to `dataset` with weight 1: as many rows of each "
        "are chosen as these shares allow without repeating one. Absent, all its rows are used.",
    )
    columns: dict[str, str] | None = Field(
        None, description="Names of its columns, as in the stage's `columns`."
    )
    filter: Filter = None
    max_samples: int | None = Field(
        None, ge=1, description="Use at most this many of its rows, before weights apply."
    )


Mixture = Annotated[
    list[MixtureSource] | None,
    UnlessDefault,
    Field(description="Further data sets, whose rows are learned together with `dataset`."),
]


def check_rows(settings: Any) -> None:
    """Raise ValueError where settings of the rows (of a TrainSettings) do nothing, or don't fit."""
    if settings.samples_from != "start" and not (
        settings.max_samples or settings.max_eval_samples or settings.mixture
    ):
        raise ValueError(
            "`samples_from` does nothing without `max_samples` or `max_eval_samples`. Set one of "
            "these, or leave it out."
        )
    if settings.max_eval_samples is not None and settings.eval_dataset is None:
        raise ValueError("`max_eval_samples` does nothing without `eval_dataset`. Set that too.")
    if settings.streaming:
        _check_streaming(settings)
    weights = {source.weight is None for source in settings.mixture or ()}
    if len(weights) > 1:
        raise ValueError(
            "Some data sets of `mixture` have a `weight` and others have none. Give all of them "
            "one (that of `dataset` is 1), or none to use all rows."
        )
    if isinstance(settings.eval_dataset, dict):
        for name in settings.eval_dataset:
            if not name or not all(c.isalnum() or c in "-_." for c in name):
                raise ValueError(
                    f"{name!r} can't be the name of a held-out data set. Use letters, digits, "
                    f"`-`, `_` and `.`."
                )


def _check_streaming(settings: Any) -> None:
    if settings.samples_from != "start":
        raise ValueError(
            "`streaming` reads a data set from its start: a random choice would download all of "
            "it. Leave `samples_from` out, or `streaming`."
        )
    needs = {
        "max_samples": settings.max_samples,
        "max_eval_samples": settings.eval_dataset is None or settings.max_eval_samples,
        "max_samples of each source in mixture": all(s.max_samples for s in settings.mixture or ()),
    }
    for name, value in needs.items():
        if not value:
            raise ValueError(f"`streaming` needs the number of rows to read: set {name}.")
