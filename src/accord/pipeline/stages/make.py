"""The stages that other stages start from: the world, an untrained model, a split data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from accord.compare.dataset import load_records
from accord.data.read import read_records
from accord.data.report import ReadReport
from accord.data.split import split_by_prompt
from accord.data.write import record_json, write_jsonl
from accord.lm.scratch import model_from_scratch, record_texts
from accord.pipeline.progress import Progress
from accord.runs import write_json_atomic
from accord.settings.stages import ScratchSettings, SplitSettings, WorldSettings
from accord.world.build import build_world

log = logging.getLogger(__name__)


def world(settings: WorldSettings) -> Iterator[Progress]:
    """Write the embedded world's prompts, demonstrations, corpus and untrained model."""
    yield Progress(0, 1)
    build_world(settings)
    yield Progress(1, 1)


def scratch(settings: ScratchSettings) -> Iterator[Progress]:
    """Write `model/`: a tokenizer trained on the rows' text, and an untrained model for it."""
    yield Progress(0, 1)
    records, report = load_records(settings.dataset, "any")
    log.info("%s: %s", report.name, report.summary())
    model_from_scratch(record_texts(records), settings)
    yield Progress(1, 1)


def split(settings: SplitSettings) -> Iterator[Progress]:
    """Write train.jsonl and test.jsonl, disjoint by prompt, and data.json with counts of rows."""
    yield Progress(0, 1)
    folder = Path(settings.output_dir)
    report, train, test = write_split(settings, folder)
    log.info("%s: %s", report.name, report.summary())
    data = {"read": report.to_json(), "train": train, "test": test}
    write_json_atomic(folder / "data.json", data)
    yield Progress(1, 1, f"{train:,} rows to train on, {test:,} held out")


def write_split(settings: SplitSettings, folder: Path) -> tuple[ReadReport, int, int]:
    """Write train.jsonl and test.jsonl into a folder; returns what was read and their rows."""
    records, report = read_records(settings.dataset, "any", settings.dialogue_text)
    train, test = split_by_prompt(records, settings.test_fraction, settings.seed)
    write_jsonl(folder / "train.jsonl", map(record_json, train))
    write_jsonl(folder / "test.jsonl", map(record_json, test))
    return report, len(train), len(test)
