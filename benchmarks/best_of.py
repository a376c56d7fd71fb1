"""What best-of-16 costs beside one response of 128 tokens, on the engine of `accord serve`.

    python benchmarks/best_of.py [--n 16] [--tokens 128] [--turns 7] [--json FILE]

A Llama of 41M parameters with random weights answers, and a reward model of the same size scores. A
single response, best-of-n, and best-of-n that is pruned take turns in one process; a ratio is the
median of the turns' ratios, of wall-clock time and of processor time. A busy machine disturbs the
latter less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machine_report import print_machine, write_json
from workers.workload import Workload, write_workload

from accord.compare.rewards.build import build_reward
from accord.lm.load import load_causal, load_scalar, save_model
from accord.respond.protocol import SamplingSettings
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer
from accord.serve.best_of.stopping import read_checkpoints
from accord.serve.engine import EngineRequest, TokenUsage
from accord.serve.local import LocalEngine
from accord.settings.rewards import model_source


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of each response")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--prune", default="32:0.25")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    facts = print_machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        write_workload(Workload(), folder)
        scalar = load_scalar(str(folder / "model"), new_head=True, device="cpu")
        save_model(scalar, folder / "reward", card="")
        turns = asyncio.run(_measure(folder, options))
    figures = {way: _figure(turns, way) for way in turns[0]}
    for way, figure in figures.items():
        print(
            f"{way:12} {figure['seconds']:.2f} s, {figure['wall_ratio']:.2f} times one response; "
            f"processor {figure['cpu_seconds']:.2f} s, {figure['cpu_ratio']:.2f} times"
        )
    write_json(options.json, {"machine": facts, "figures": figures, "turns": turns})


async def _measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each way took in each turn."""
    lm = load_causal(str(folder / "model"), precision=options.precision, device="cpu")
    source = model_source(str(folder / "reward"))
    reward = build_reward([source], precision=options.precision, device="cpu")
    local = LocalEngine(lm, ("model",), max_rows=max(64, options.n))
    scorer = Scorer(reward)
    best = BestOfEngine(local, scorer, BestOfOptions(n=options.n))
    checkpoints = read_checkpoints(options.prune)
    pruned = BestOfEngine(local, scorer, BestOfOptions(n=options.n, prune=checkpoints))
    engines = {"one": local, f"best of {options.n}": best, f"prune {options.prune}": pruned}
    prompts = [row["prompt"] for row in json.loads((folder / "rows.json").read_text())]
    turns = []
    try:
        for turn in range(-1, options.turns):  # the first one warms up
            prompt = prompts[turn]
            taken = {
                way: await _take(engine, prompt, options.tokens, scorer)
                for way, engine in engines.items()
            }
            if turn >= 0:
                turns.append(taken)
    finally:
        await local.close()
    return turns


async def _take(engine: Any, prompt: str, tokens: int, scorer: Scorer) -> dict[str, float]:
    request = EngineRequest(prompt, SamplingSettings(), tokens, seed=0)
    wall, cpu, scoring = time.perf_counter(), time.process_time(), scorer.seconds
    count = 0
    async for event in engine.stream(request):
        if isinstance(event, TokenUsage):
            count = event.completion_tokens
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "scoring_seconds": scorer.seconds - scoring,
        "tokens": count,
    }


def _figure(turns: list[dict[str, Mapping[str, float]]], way: str) -> dict[str, float]:
    """Medians over the turns, and medians of the ratios to one response in the same turn."""
    keys = ("seconds", "cpu_seconds", "scoring_seconds", "tokens")
    medians = {key: statistics.median(turn[way][key] for turn in turns) for key in keys}

    def ratio(key: str) -> float:
        return statistics.median(turn[way][key] / turn["one"][key] for turn in turns)

    return {**medians, "wall_ratio": ratio("seconds"), "cpu_ratio": ratio("cpu_seconds")}


if __name__ == "__main__":
    main()
