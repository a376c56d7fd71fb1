"""How long ratings take, from memory and from files, beside arena-rank and evalica where
`.venv-arena` has them (`make .venv-arena`)."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine_report import print_machine
from numpy.typing import NDArray

from accord.data.battle_columns import BattleFile
from accord.measure.ratings.builder import TableBuilder
from accord.measure.ratings.document import rating_document
from accord.measure.ratings.rate import Ratings, rate_models
from accord.measure.ratings.style import fit_style
from accord.measure.ratings.table import BattleTable, battle_table

PEERS = Path(__file__).resolve().parent.parent / ".venv-arena/bin/python"
WORKER = Path(__file__).resolve().parent / "workers/peer_ratings.py"
STYLES = ("words", "headers", "lists", "bold")


@dataclass(frozen=True)
class Drawn:
    """Battles drawn from Bradley-Terry strengths; 15% are ties."""

    model_a: NDArray[np.object_]
    model_b: NDArray[np.object_]
    outcome: NDArray[np.object_]
    prompt: NDArray[np.int64]
    style: NDArray[np.float64]

    def table(self, *, prompts: bool = False, style: bool = False) -> BattleTable:
        return battle_table(
            self.model_a,
            self.model_b,
            self.outcome,
            prompts=self.prompt if prompts else None,
            style=self.style if style else None,
            style_names=STYLES if style else (),
        )

    def frame(self) -> pd.DataFrame:
        winner = pd.Series(self.outcome).map({"a": "model_a", "b": "model_b", "tie": "tie"})
        return pd.DataFrame({"model_a": self.model_a, "model_b": self.model_b, "winner": winner})


def draw(models: int, battles: int, seed: int = 0) -> Drawn:
    rng = np.random.default_rng(seed)
    strengths = rng.normal(0, 0.8, models)
    names = np.array([f"model-{i:03d}" for i in range(models)], dtype=object)
    a = rng.integers(0, models, battles)
    b = (a + rng.integers(1, models, battles)) % models
    style = rng.normal(0, 1, (battles, len(STYLES)))
    logits = strengths[a] - strengths[b] + style @ np.array([0.2, 0.1, 0.0, -0.1])
    won = rng.random(battles) < 1 / (1 + np.exp(-logits))
    outcome = np.where(rng.random(battles) < 0.15, "tie", np.where(won, "a", "b")).astype(object)
    prompt = rng.integers(0, battles // 10 or 1, battles)
    return Drawn(names[a], names[b], outcome, prompt, style)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def load_files(drawn: Drawn, folder: Path) -> Iterator[tuple[str, float]]:
    """How long it takes to load the battles with their prompts from each kind of file."""
    frame = drawn.frame()
    frame["question_id"] = drawn.prompt
    frame.to_parquet(folder / "battles.parquet")
    frame.to_csv(folder / "battles.csv", index=False)
    frame.to_json(folder / "battles.jsonl", orient="records", lines=True)
    for path in sorted(folder.iterdir()):
        seconds, table = timed(lambda path=path: read_table(path))
        assert len(table) == len(frame)
        yield path.suffix, seconds


def read_table(path: Path) -> BattleTable:
    builder = TableBuilder()
    for batch in BattleFile(str(path)).columnar():
        builder.add(batch)
    return builder.table()


def largest_difference(ratings: Ratings, others: dict[str, float]) -> float:
    """In Elo points, each about its own mean."""
    ours = {model.model: model.rating for model in ratings.models}
    a, b = (np.array([values[name] for name in ours]) for values in (ours, others))
    return float(np.abs((a - a.mean()) - (b - b.mean())).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--battles", type=int, default=2_000_000)
    args = parser.parse_args()
    print_machine()
    drawn = draw(args.models, args.battles)
    print(f"{args.battles:,} battles of {args.models} models, in seconds")
    loading, table = timed(drawn.table)
    sandwich, exact = timed(lambda: rate_models(table, bootstrap=0))
    bootstrap, _ = timed(lambda: rate_models(table, bootstrap=1000))
    rows = {
        "load the columns": loading,
        "fit, sandwich intervals": sandwich,
        "fit, 1,000 bootstrap rounds, ranks": bootstrap,
        "all three": loading + sandwich + bootstrap,
    }
    for rule in ("rao_kupper", "davidson"):
        rows[f"fit with ties by {rule}, sandwich"], _ = timed(
            lambda rule=rule: rate_models(table, ties=rule, bootstrap=0)
        )
    with tempfile.TemporaryDirectory() as folder:
        for ending, seconds in load_files(drawn, Path(folder)):
            rows[f"load from a file, {ending}"] = seconds
    clustered = drawn.table(prompts=True)
    rows["by prompt, sandwich"], _ = timed(lambda: rate_models(clustered, bootstrap=0))
    rows["by prompt, 1,000 bootstrap rounds"], _ = timed(
        lambda: rate_models(clustered, bootstrap=1000)
    )
    styled = drawn.table(prompts=True, style=True)
    rows[f"style control ({len(STYLES)}), by prompt"], _ = timed(lambda: fit_style(styled))
    by_prompt = rate_models(clustered, bootstrap=0)
    rows["win rates, paired tests, next pairs, by prompt"], _ = timed(
        lambda: rating_document(clustered, by_prompt, positions=True)
    )
    for name, seconds in rows.items():
        print(f"{name:48} {seconds:7.2f}")
    if PEERS.is_file():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "battles.parquet"
            drawn.frame().to_parquet(path)
            done = subprocess.run(
                [str(PEERS), str(WORKER), str(path)], capture_output=True, text=True, check=True
            )
        for peer, figures in json.loads(done.stdout.splitlines()[-1]).items():
            seconds = ", ".join(f"{k} {figures[k]:.2f}" for k in ("load", "fit") if k in figures)
            difference = largest_difference(exact, figures["ratings"])
            line = f"{peer:40} {seconds}; ratings differ by {difference:.1e} Elo at most"
            if "converged" in figures:
                rest = largest_difference(exact, figures["converged"])
                line += f", by {rest:.1e} where it converges"
            print(line)


if __name__ == "__main__":
    main()
