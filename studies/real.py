"""A real chat model through every method, and accord's numbers beside those of other libraries.

    python studies/real.py --model FOLDER --dataset harmless.jsonl.gz --output-dir runs/real

FOLDER is a chat model as `save_pretrained` writes it; the study was made for
SmolLM2-135M-Instruct. The data set is HH-RLHF's harmless-base (`chosen` and `rejected` as text).

1. `accord run` of SFT, a reward model, DPO, KTO, ORPO, PPO, GRPO, two rounds of iterative DPO,
   best-of-N, an arena and the report (studies/real_recipe.py), with the seconds of each stage.
2. The run's models beside plain transformers and peft, and one training step of each method beside
   TRL (studies/real_checks.py).

The results are written to `real.json` and printed in Markdown. Finished stages are not repeated.
With `--short` the whole takes a minute or two: what a test runs.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from real_checks import run_checks
from real_recipe import FULL, SHORT, make_recipe

from accord.runs import machine, write_json_atomic

MARKS = {True: "✓", False: "✗", None: "differs, as the page explains"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/real"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--trl-python", type=Path, default=Path(".venv-trl/bin/python"))
    options = parser.parse_args()
    folder = options.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    size = SHORT if options.short else FULL
    rows = write_rows(options.dataset, folder / "rows.jsonl", size.rows)
    recipe = make_recipe(str(options.model.resolve()), str(rows), size)
    run_recipe(recipe, folder)
    stages = stage_seconds(folder / "run", recipe)
    trl_python = options.trl_python if options.trl_python.is_file() else None
    checks = run_checks(folder, str(options.model.resolve()), trl_python)
    write_json_atomic(
        folder / "real.json", {"machine": machine(), "stages": stages, "checks": checks}
    )
    print(markdown(stages, checks))
    print(f"\n{platform.machine()}, {machine()['cores']} cores, {time.strftime('%Y-%m-%d')}.")


def write_rows(dataset: Path, target: Path, count: int) -> Path:
    """The first `count` rows of a JSON lines file, which may be gzipped."""
    opened = gzip.open if dataset.suffix == ".gz" else open
    with opened(dataset, "rt", encoding="utf-8") as lines:
        text = "".join(itertools.islice(lines, count))
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
    return target


def run_recipe(recipe: dict[str, Any], folder: Path) -> None:
    """Run a recipe by the command, as a user would. Exits where it fails."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "accord", "run", str(path), f"output_dir={folder / 'run'}"]
    process = subprocess.run(command, check=False)
    if process.returncode:
        sys.exit(process.returncode)


def stage_seconds(run: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """Each stage with the seconds that it took."""
    stages = []
    for stage in recipe["stages"]:
        name = stage.get("name", stage["stage"])
        file = (run if name == "report" else run / name) / "stage.json"
        stages.append({"stage": name, "seconds": json.loads(file.read_text())["seconds"]})
    return stages


def markdown(stages: list[dict[str, Any]], checks: list[dict[str, Any]]) -> str:
    lines = ["| stage | seconds |", "|---|---|"]
    lines += [f"| {row['stage']} | {row['seconds']:.0f} |" for row in stages]
    lines += ["", "| what | beside | result | |", "|---|---|---|---|"]
    lines += [
        f"| {row['what']} | {row['beside']} | {row['result']} | {MARKS[row['equal']]} |"
        for row in checks
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
