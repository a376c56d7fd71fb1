"""What `accord plan` foresees beside what a run really uses at its peak.

Methods × models × lengths × batches × precisions × LoRA or full. Each case is a process of its own
that takes six steps of `accord train` on a CPU and reports the most memory it used above that of
the imported libraries; another process makes the plan. The constants in `learn/plan/phases.py` were
set on the toys, and the real models are held out. Finished cases are kept in the results
file, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine_report import print_machine
from rich.console import Console
from rich.table import Table
from workers.workload import Workload, write_workload

TOYS = {
    "toy, 2k words": Workload(2_000, 256, 8, longest=600, rows=64),
    "toy, 48k words": Workload(48_000, 256, 4, longest=600, rows=64),
}
MARGIN, UNDER = 0.15, 0.05
STEPS = 6  # two hide what a larger pass needs beside the free blocks of a smaller one before it
LORA = {"lora": {"r": 16}}
BF16 = {"precision": "bf16"}


@dataclass(frozen=True)
class Case:
    """A method on a model; `words` is the mean length of a prompt and of a response."""

    model: str
    method: str
    batch: int = 8
    words: int = 120
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def calibrates(self) -> bool:
        """The constants were set on the toys; the real models are held out."""
        return self.model in TOYS

    @property
    def name(self) -> str:
        extra = ", ".join(f"{k}={v}" for k, v in self.values.items() if k not in ("lora",))
        lora = "LoRA" if "lora" in self.values else "full"
        return f"{self.model}, {self.method}, {lora}, batch {self.batch}, {self.words} words" + (
            f", {extra}" if extra else ""
        )


SMALL, WIDE = TOYS
PPO = {"num_ppo_epochs": 1, "max_new_tokens": 32}
GRPO = {"num_generations": 4, "max_new_tokens": 48}
CASES = [
    Case(SMALL, "sft"),
    Case(WIDE, "sft", 16),
    Case(SMALL, "dpo"),
    Case(SMALL, "dpo", 8, 60, LORA | BF16),
    Case(WIDE, "dpo", 8, 120, BF16),
    Case(SMALL, "sft", 2, 60, LORA),
    Case(SMALL, "sft", 8, 400),
    Case(WIDE, "sft", 8, 400, BF16),
    Case(SMALL, "dpo", 8, 400, LORA),
    Case(SMALL, "sft", 8, 120, {"gradient_checkpointing": True}),
    Case(WIDE, "sft", 16, 120, {"gradient_checkpointing": True}),
    Case(WIDE, "sft", 8, 120, {"gradient_accumulation_steps": 3}),
    Case(SMALL, "reward", 8, 120),
    Case(WIDE, "reward", 16, 120, LORA),
    Case(SMALL, "kto", 16, 120),
    Case(WIDE, "kto", 8, 120, LORA | BF16),
    Case(SMALL, "orpo", 8, 120),
    Case(WIDE, "simpo", 8, 120, BF16),
    Case(SMALL, "grpo", 64, 60, GRPO),
    Case(WIDE, "grpo", 64, 120, GRPO | LORA | BF16),
    Case(SMALL, "ppo", 32, 60, PPO),
    Case(WIDE, "ppo", 32, 120, PPO | LORA),
    Case(SMALL, "ppo", 32, 120, PPO | LORA | {"critic": "shared"}),
    Case(WIDE, "ppo", 32, 60, PPO | LORA | {"critic": "separate"}),
    Case(SMALL, "ppo", 32, 60, PPO | BF16),
    Case(SMALL, "dpo", 8, 60, LORA | BF16 | {"max_steps": 12}),
    Case("SmolLM2", "sft", 2),
    Case("SmolLM2", "dpo", 4, values=LORA | BF16),
    Case("SmolLM2", "dpo", 4, values=LORA | BF16 | {"max_steps": 10}),
    Case("SmolLM2", "dpo", 2),
    Case("SmolLM2", "sft", 4, values={"gradient_checkpointing": True}),
    Case("SmolLM2", "kto", 4, values=LORA),
    Case("SmolLM2", "reward", 4, values=BF16),
    Case("SmolLM2", "grpo", 8, values=GRPO | LORA | {"max_new_tokens": 16}),
    Case("SmolLM2", "ppo", 4, values=PPO | LORA | BF16 | {"max_new_tokens": 16}),
    Case("Gemma 3 270M", "sft", 2, values=LORA),
    Case("Gemma 3 270M", "dpo", 2, values=LORA | BF16),
    Case("Gemma 3 270M", "sft", 1, values=BF16),
    Case("Gemma 3 270M", "orpo", 2, values=LORA),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--gemma", type=Path, help="folder of Gemma 3 270M")
    parser.add_argument("--rows", type=Path, help="HH-RLHF pairs for the real models (.jsonl.gz)")
    parser.add_argument("--only", help="cases whose name contains this text")
    parser.add_argument("--replan", action="store_true", help="plan finished cases again")
    parser.add_argument("--remeasure", action="store_true", help="measure finished cases again")
    parser.add_argument("--markdown", type=Path, help="also write the table here, for the docs")
    parser.add_argument("--results", type=Path, default=Path("plan-results.json"))
    args = parser.parse_args()

    def make_place(case: Case, folder: Path) -> dict[str, Any]:
        place = prepare(case, folder, args)
        return {} if place is None else {"place": str(place)}

    facts = print_machine()
    done = json.loads(args.results.read_text()) if args.results.is_file() else {"cases": {}}
    done["machine"] = facts
    import_everything()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["ACCORD_CACHE"] = f"{temporary}/cache"
        root = Path(temporary)
        for case in CASES:
            if args.only and args.only not in case.name:
                continue
            # By another process: what this one has used once is hidden from every case after it.
            place = in_a_process(make_place, case, root).get("place")
            if place is None:
                continue
            folder = Path(place)
            figures = done["cases"].setdefault(case.name, {})
            figures["calibrates"] = case.calibrates
            if "planned" not in figures or args.replan:
                figures |= in_a_process(plan, case, folder)
            if "measured" not in figures or args.remeasure:
                figures |= in_a_process(measure, case, folder)
            args.results.write_text(json.dumps(done, indent=1) + "\n")
            print(f"{case.name}: {figures}", flush=True)
    Console(width=100).print(make_table(done["cases"]))
    if args.markdown is not None:
        args.markdown.write_text(markdown_table(done["cases"]))


def import_everything() -> None:
    """What training imports at any time, so that it is part of the memory before."""
    import peft  # noqa: F401
    import transformers.models.gemma3.modeling_gemma3
    import transformers.models.llama.modeling_llama  # noqa: F401

    import accord.learn.offline.train
    import accord.learn.online.train
    import accord.pipeline.plan.run  # noqa: F401


def prepare(case: Case, folder: Path, args: argparse.Namespace) -> Path | None:
    """The folder with `model`, `reward` and rows.json of a case; None without the real model."""
    real = {"SmolLM2": args.smollm2, "Gemma 3 270M": args.gemma}
    place = folder / f"{case.model}-{case.words}"
    if place.is_dir():
        return place
    if case.model in TOYS:
        work = TOYS[case.model]
        made = Workload(
            work.vocabulary, work.hidden, work.layers, case.words, case.words, longest=600, rows=64
        )
        write_workload(made, place)
    elif real[case.model] is None or args.rows is None:
        return None
    else:
        place.mkdir()
        (place / "model").symlink_to(real[case.model].resolve())
        shutil.copy(args.rows, place / "rows.jsonl.gz")
    return place


def settings_of(case: Case, folder: Path) -> dict[str, Any]:
    rows = folder / "rows.json" if case.model in TOYS else folder / "rows.jsonl.gz"
    values: dict[str, Any] = {
        "model": str(folder / "model"),
        "dataset": str(rows),
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": case.batch,
        "max_steps": STEPS,
        "max_samples": 64,
        "max_length": 1200 if case.model in TOYS else 512,
        "device": "cpu",
        **case.values,
    }
    if case.method == "sft" and case.model in TOYS:
        values["columns"] = {"completion": "chosen"}
    if case.method == "kto":
        values["columns"] = None
    if case.method in ("ppo", "grpo"):
        values["reward_model"] = str(reward_of(case, folder))
    return {k: v for k, v in values.items() if v is not None}


def reward_of(case: Case, folder: Path) -> Path:
    """A reward model with random adapters, or whole, as the policy is trained."""
    from accord.lm.adapters.lora import add_adapters
    from accord.lm.load import load_scalar, save_model
    from accord.settings.training import LoraSettings

    place = folder / ("reward-lora" if "lora" in case.values else "reward")
    if not place.is_dir():
        scorer = load_scalar(str(folder / "model"), new_head=True, device="cpu")
        if "lora" in case.values:
            scorer = add_adapters(scorer, LoraSettings(), seed=0)
        save_model(scorer, place, card="")
    return place


def in_a_process(work: Any, case: Case, folder: Path) -> dict[str, Any]:
    """What a function returns in a copy of this process, which has imported everything."""
    if case.method in ("ppo", "grpo") and work is measure:
        in_a_process(_reward_figures, case, folder)  # made beforehand, by another process
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            shutil.rmtree(folder / "out", ignore_errors=True)
            with os.fdopen(write, "w") as out:
                json.dump(work(case, folder), out)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        return {"failed": f"{work.__name__} ended with {status}"}
    result: dict[str, Any] = json.loads(text)
    return result


def _reward_figures(case: Case, folder: Path) -> dict[str, Any]:
    return {"reward": str(reward_of(case, folder))}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Bytes at the peak of some steps above those before, and the seconds of the last one."""
    from accord.learn.offline.train import train_offline
    from accord.learn.online.methods import ONLINE
    from accord.learn.online.train import train_online
    from accord.settings.stage_kinds import METHOD_SETTINGS

    settings: Any = METHOD_SETTINGS[case.method](**settings_of(case, folder))
    before = peak_bytes()
    run: Any = train_online if case.method in ONLINE else train_offline
    seconds = [step.metrics["seconds"] for step in run(case.method, settings)]
    return {"measured": peak_bytes() - before, "seconds": seconds[-1]}


def plan(case: Case, folder: Path) -> dict[str, Any]:
    """The plan's peak, and its parts in the largest phase."""
    from accord.pipeline.plan.machine import Machine
    from accord.pipeline.plan.run import plan_stage
    from accord.settings.stage_kinds import METHOD_SETTINGS, StagePlan

    settings = METHOD_SETTINGS[case.method](**settings_of(case, folder))
    stage = plan_stage(
        StagePlan(case.method, "train", settings, case.method), (), Machine("cpu", 1 << 40)
    )
    assert stage.memory is not None, stage.problem
    assert stage.facts is not None
    largest = stage.memory.largest
    return {
        "planned": stage.memory.peak,
        "phase": largest.name,
        "parts": dict(largest.parts),
        "tokens": stage.memory.tokens,
        "longest": stage.facts.longest,
    }


def make_table(cases: dict[str, Any]) -> Table:
    """A row a case: planned, measured and their ratio."""
    table = Table(title="The plan beside the measured peak, MB above the libraries")
    table.add_column("case")
    for column in ("tokens in the largest pass", "planned", "measured", "difference"):
        table.add_column(column, justify="right")
    for name, figures in cases.items():
        if "planned" not in figures or "measured" not in figures:
            table.add_row(name, "", "", "", str(figures.get("failed", "")))
            continue
        ratio = figures["planned"] / figures["measured"] - 1
        good = -UNDER <= ratio <= MARGIN
        mark = " (calibration)" if figures["calibrates"] else ""
        table.add_row(
            name + mark,
            f"{figures['tokens']:,}",
            f"{figures['planned'] / 2**20:,.0f}",
            f"{figures['measured'] / 2**20:,.0f}",
            f"{ratio:+.1%}",
            style="" if good else "red",
        )
    return table


def markdown_table(cases: dict[str, Any]) -> str:
    """The same rows for docs/plan.md."""
    lines = ["| case | tokens | planned, MB | measured, MB | difference |", "|---|--:|--:|--:|--:|"]
    for name, f in cases.items():
        if "planned" not in f or "measured" not in f:
            continue
        mark = " (calibration)" if f["calibrates"] else ""
        numbers = f"{f['planned'] / 2**20:,.0f} | {f['measured'] / 2**20:,.0f}"
        ratio = f["planned"] / f["measured"] - 1
        lines.append(f"| {name}{mark} | {f['tokens']:,} | {numbers} | {ratio:+.1%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
