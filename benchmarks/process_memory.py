"""Peak memory of one and two processes over the number of rows.

DPO and KTO with reference log-probs that an earlier run has stored, which the main process sends to
the other; and GRPO with long prompts, over prompts in an iteration. The model is tiny, so that rows
make the difference. Each figure is that of the larger process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from workers.workload import Workload, write_workload

HERE = Path(__file__).resolve().parent
SIZES = {"dpo": (500, 2000, 8000), "kto": (500, 2000, 8000), "grpo": (8, 32, 128)}
WORKLOADS = {
    False: Workload(2000, 64, 1, prompt=60, response=80, rows=8000),
    True: Workload(2000, 64, 1, prompt=1200, response=8, longest=1800, rows=128),  # online
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SIZES, action="append")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for online, work in WORKLOADS.items():
            write_workload(work, folder / f"work-{online}")
        for method in args.only or SIZES:
            for rows in SIZES[method]:
                if method != "grpo":
                    measure(method, rows, 1, folder)  # fills the cache
                one, two = (measure(method, rows, count, folder) for count in (1, 2))
                figures.append({"method": method, "rows": rows, "one": one, "two": two})
                print(f"{method}, {rows} rows: {one[-1]:.0f}, {two[-1]:.0f} MB", flush=True)
    Console().print(make_table(figures))
    write_json(args.json, {"machine": facts, "figures": figures})


def measure(method: str, rows: int, count: int, folder: Path) -> list[float]:
    """Megabytes before the rows and after each step, of the process that used the larger number
    at its end."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(count), str(HERE / "workers/accord_processes.py")]
        command += [method, str(folder / f"work-{method == 'grpo'}")]
        command += ["--rows", str(rows), "--output", output]
        cache = {"ACCORD_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env={**os.environ, **cache}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        results = [json.loads((Path(output) / f"{r}.json").read_text()) for r in range(count)]
    return max(results, key=lambda peaks: peaks[-1])


def make_table(figures: list[dict[str, object]]) -> Table:
    table = Table(title="Peak memory of a process, MB (of which its libraries)")
    for column in ("method", "rows", "one process", "two processes"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for f in figures:
        cells = [f"{f[key][-1]:.0f} ({f[key][0]:.0f})" for key in ("one", "two")]  # type: ignore[index]
        table.add_row(str(f["method"]), f"{f['rows']:,}", *cells)
    return table


if __name__ == "__main__":
    main()
