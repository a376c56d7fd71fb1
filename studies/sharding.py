"""Do processes that divide a model learn what one does, in a part of its memory?

    python studies/sharding.py losses --steps 20 --output-dir runs/sharding
    python studies/sharding.py memory --output-dir runs/sharding
    python studies/sharding.py kills --kills 50 --output-dir runs/sharding

`losses`: each method, full and by LoRA, on a Llama and on a model whose embeddings are its head, in
one process and in several with sharding=fsdp, in float32: the largest difference of a loss.
`memory`: what a process holds of a model of some 80 million parameters, at its peak and behind a
step, above what it held before it loaded the model; and the peak that `accord plan` says. `kills`:
a run of several processes, of which a random one is killed at a random moment, until all kills have
hit; the same command goes on each time, and the files must equal those of an undisturbed run.
Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forked import run_forked, start_forked, wait_forked
from sharded_cases import METHODS, MODELS, Case, build_inputs, case_settings, run_case, start_run

from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model

TOLERANCE = 1e-5
LARGE = {
    "hidden_size": 640,
    "intermediate_size": 1728,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
VOCABULARY = 16_000
_WEIGHTS = {False: "full", True: "LoRA"}


def losses(folder: Path, steps: int, counts: list[int], rows: list[str]) -> None:
    """The table of the largest differences, and a failure where one is above the tolerance; with
    `rows` of those rows alone whose name contains one of them."""
    inputs = build_inputs(folder)
    print("| method | model | weights | " + " | ".join(f"{n} processes" for n in counts) + " |")
    print("|---|---|---|" + "---|" * len(counts))
    worst = 0.0
    for model in MODELS:
        for lora in (False, True):
            for method in METHODS:
                case, row = Case(method, model, lora), f"{method} | {model} | {_WEIGHTS[lora]}"
                if rows and not any(part in row for part in rows):
                    continue
                cells = list(_differences(case, inputs, folder / case.name, steps, counts))
                worst = max([worst, *cells])
                numbers = " | ".join(f"{cell:.1e}" for cell in cells)
                print(f"| {row} | {numbers} |", flush=True)
    print(f"\nThe largest difference of a loss in {steps} steps: {worst:.1e}.")
    assert worst <= TOLERANCE, worst


def _differences(
    case: Case, inputs: Path, folder: Path, steps: int, counts: list[int]
) -> Iterator[float]:
    expected = run_case(case, inputs, folder / "1", processes=1, steps=steps)
    for count in counts:
        output = folder / str(count)

        def work(rank: int, count: int = count, output: Path = output) -> None:
            run_case(case, inputs, output, processes=count, steps=steps)

        run_forked(count, work, folder / f"{count}.log")
        rows = [json.loads(row) for row in (output / "metrics.jsonl").read_text().splitlines()]
        assert len(rows) == len(expected)
        yield max(abs(r["loss"] - e["loss"]) for r, e in zip(rows, expected, strict=True))


def memory(folder: Path, counts: list[int]) -> None:
    """The table of a process's memory; the largest of all processes."""
    inputs = build_inputs(folder)
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 8, 300, 128)
    model = untrained_model("llama", LARGE, tokenizer, seed=1)
    model.resize_token_embeddings(VOCABULARY)
    size = sum(p.numel() for p in model.parameters())
    save_untrained(model, tokenizer, inputs / "Llama")
    del model
    print(f"A Llama of {size / 1e6:.0f} million parameters.\n")
    print(
        "| method | weights | processes | divided | planned, MB | peak, MB | difference | behind a "
        "step, MB |"
    )
    print("|---|---|--:|---|--:|--:|--:|--:|")
    for lora, precision in ((False, "fp32"), (True, "bf16")):
        for count, sharding in [(1, "none"), *((n, s) for n in counts for s in ("none", "fsdp"))]:
            case = Case("DPO", lora=lora)
            output = folder / f"memory-{precision}-{lora}-{count}-{sharding}"
            options = {"precision": precision, "sharding": sharding, "num_train_epochs": 1}

            def work(rank: int, case: Case = case, output: Path = output, **kept: Any) -> None:
                settings = case_settings(
                    case, inputs, output, processes=kept["count"], steps=2, **kept["options"]
                )
                with watched_memory() as seen:
                    for _ in start_run(settings, case.method):
                        seen["behind a step"] = private_megabytes() - seen["before"]
                (output / f"memory-{rank}.json").write_text(json.dumps(seen))

            kept = {"count": count, "options": options}
            run_forked(count, lambda rank, w=work, k=kept: w(rank, **k), output.with_suffix(".log"))
            seen = [json.loads(f.read_text()) for f in output.glob("memory-*.json")]
            peak, rest = (max(s[name] for s in seen) for name in ("peak", "behind a step"))
            weights = f"{_WEIGHTS[lora]}, {precision}"
            divided = "yes" if sharding == "fsdp" else "no"
            planned = _planned_megabytes(case, inputs, output, count, options)
            print(
                f"| DPO | {weights} | {count} | {divided} | {planned:,.0f} | {peak:,.0f} | "
                f"{planned / peak - 1:+.1%} | {rest:,.0f} |",
                flush=True,
            )
            shutil.rmtree(output / "model", ignore_errors=True)


def _planned_megabytes(
    case: Case, inputs: Path, output: Path, count: int, options: Mapping[str, Any]
) -> float:
    """What `accord plan` says of a process's peak. In a process of its own, so that the measured
    ones do not start with what planning imports."""
    settings = case_settings(case, inputs, output, processes=count, steps=2, **options)

    def work(rank: int) -> None:
        from accord.pipeline.plan.machine import Machine
        from accord.pipeline.plan.run import plan_stage
        from accord.settings.recipe import StagePlan

        machine = Machine("cpu", 1 << 40, count)
        memory = plan_stage(StagePlan("dpo", "train", settings, "dpo"), (), machine).memory
        assert memory is not None
        (output / "planned.json").write_text(json.dumps(memory.peak / 2**20))

    run_forked(1, work, output.with_suffix(".plan.log"))
    return float(json.loads((output / "planned.json").read_text()))


def private_megabytes() -> float:
    """What this process alone holds: pages that it shares with its parent do not count."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(float(lines[n].split()[0]) for n in ("Private_Dirty", "Private_Clean")) / 1024


@contextmanager
def watched_memory() -> Iterator[dict[str, float]]:
    """Within, the peak of a process's private memory above that at the start."""
    seen = {"before": private_megabytes(), "peak": 0.0}
    ends = threading.Event()

    def watch() -> None:
        while not ends.wait(0.05):
            seen["peak"] = max(seen["peak"], private_megabytes() - seen["before"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ends.set()
        thread.join()


def kills(folder: Path, number: int, count: int, seed: int) -> None:
    """Kill random processes at random moments, and compare with an undisturbed run."""
    inputs, generator = build_inputs(folder), random.Random(seed)
    courses: dict[Case, int] = {
        Case("DPO", settings=(("eval_dataset", str(inputs / "pairs.jsonl")),)): 60,
        Case("PPO, separate critic", "Qwen3, tied"): 20,
    }
    hits: Counter[str] = Counter()
    compared = 0
    for case, steps in courses.items():
        options: Mapping[str, Any] = {"processes": count, "steps": steps, "save_steps": 2}
        began = time.monotonic()
        expected = folder / case.name / "undisturbed"
        run_forked(count, _work(case, inputs, expected, options), folder / "undisturbed.log")
        longest = time.monotonic() - began
        output, hit = folder / case.name / "killed", 0
        while hit < number // len(courses):
            rank = generator.randrange(count)
            if _killed(case, inputs, output, options, rank, generator.uniform(0.0, longest)):
                hits[f"{case.name}: rank {rank}"] += 1
                hit += 1
            if (output / "model").is_dir():  # it came to its end
                _compare(output, expected)
                shutil.rmtree(output)
                compared += 1
            print(f"{case.name}: {hit} kills, {compared} runs", end="\r", flush=True)
        run_forked(count, _work(case, inputs, output, options), folder / "last.log")
        _compare(output, expected)
        compared += 1
    print(f"\n{sum(hits.values())} kills: {dict(hits)}. All {compared} runs are equal to the bit.")


def _work(
    case: Case, inputs: Path, output: Path, options: Mapping[str, Any]
) -> Callable[[int], None]:
    def work(rank: int) -> None:
        run_case(case, inputs, output, **options)

    return work


def _killed(
    case: Case,
    inputs: Path,
    output: Path,
    options: Mapping[str, Any],
    rank: int,
    seconds: float,
) -> bool:
    """Start a run, and kill one of its processes after so many seconds; whether it was running.
    The others must end by themselves, with an error."""
    pids = start_forked(
        options["processes"], _work(case, inputs, output, options), output.parent / "log"
    )
    time.sleep(seconds)
    hit = os.waitid(os.P_PID, pids[rank], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    if hit:
        os.kill(pids[rank], signal.SIGKILL)
    codes = wait_forked(pids, seconds=90)
    assert None not in codes, "a process did not end"
    return hit


def _compare(output: Path, expected: Path) -> None:
    """Fail where a run's metrics or weights are not those of another."""
    names = ["metrics.jsonl", "model/model.safetensors"]
    if (expected / "critic").is_dir():
        names.append("critic/model.safetensors")
    for name in names[1:]:
        assert (output / name).read_bytes() == (expected / name).read_bytes(), (output, name)
    rows = [
        [
            {k: v for k, v in json.loads(row).items() if k not in ("seconds", "peak_memory_mb")}
            for row in (folder / names[0]).read_text().splitlines()
        ]
        for folder in (output, expected)
    ]
    assert rows[0] == rows[1], output
    assert not list(output.glob("checkpoints*")), "a checkpoint was left"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["losses", "memory", "kills"])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/sharding"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", nargs="+", default=[], help="such as 'GRPO | Qwen3, tied | LoRA'")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    arguments = parser.parse_args()
    folder = arguments.output_dir / arguments.what
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["ACCORD_CACHE"] = str(folder / "cache")
    if arguments.what == "losses":
        losses(folder, arguments.steps, arguments.processes, arguments.rows)
    elif arguments.what == "memory":
        memory(folder, arguments.processes)
    else:
        kills(folder, arguments.kills, arguments.processes[0], arguments.seed)


if __name__ == "__main__":
    main()
