"""The stage `probe`: what can a reward be misled by? Its folder holds probe.json, and scores.jsonl,
from which an interrupted stage resumes."""

from __future__ import annotations

from collections.abc import Iterator

from accord.pipeline.probe.run import write_probe
from accord.pipeline.progress import Progress
from accord.settings.probe import ProbeSettings


def probe(settings: ProbeSettings) -> Iterator[Progress]:
    """Write probe.json."""
    yield from write_probe(settings)
