"""Runs a few steps of a training stage and prints the most memory it used, beside that before."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from accord.learn.loop.stage import peak_memory_mb
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.lm.transformers_logging import silence_transformers
from accord.settings.stage_kinds import METHOD_SETTINGS


def main() -> None:
    method, values = sys.argv[1], json.loads(sys.argv[2])
    settings: Any = METHOD_SETTINGS[method](**values)
    before = peak_memory_mb()
    seconds = []
    started = time.perf_counter()
    with silence_transformers():
        train = train_online if method in ONLINE else train_offline
        for step in train(method, settings):
            seconds.append(step.metrics["seconds"])
            after = peak_memory_mb()
    peaks = {"before": before, "steps": after, "peak": peak_memory_mb()}
    print(json.dumps({**peaks, "seconds": seconds, "wall": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
