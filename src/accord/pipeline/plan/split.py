"""The rows that a `split` stage has not written yet: they follow from the file that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from accord.pipeline.plan.models import maker_of
from accord.pipeline.stages.make import write_split
from accord.settings.recipe import StagePlan
from accord.settings.stages import SplitSettings


def split_to_come(path: str, stages: Sequence[StagePlan]) -> SplitSettings | None:
    """The settings of the `split` stage that will write a path that does not exist, from a file
    that does; else None."""
    if Path(path).exists():
        return None
    maker = maker_of(path, stages)
    if maker is None or not isinstance(maker.settings, SplitSettings):
        return None
    known = Path(path).name in ("train.jsonl", "test.jsonl")
    return maker.settings if known and Path(maker.settings.dataset).exists() else None


@contextmanager
def split_rows(path: str, stages: Sequence[StagePlan]) -> Iterator[str]:
    """A path with the rows of `path`: itself, or within, what a `split` would write there."""
    settings = split_to_come(path, stages)
    if settings is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        write_split(settings, Path(folder))
        yield f"{folder}/{Path(path).name}"
