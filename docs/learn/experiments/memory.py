"""The memory of DPO's and PPO's roles, as `accord plan --compare` counts it without running them.

The model is an untrained Llama, since only shapes matter; bf16 with float32 master weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiment import Experiment

ROLES = ("policy", "reference", "reward", "critic")
BYTES = {"trained": 2 + 4 + 4 + 8, "frozen": 2}  # a parameter in bf16: see the page
BILLION = 1e9 * 7 / 2**30  # GB (2³⁰ bytes) of 7 billion bytes


def planned(experiment: Experiment) -> list[dict[str, Any]]:
    """The variants of --compare on two pairs: name, bytes of each role, peak and its phase."""
    world = experiment.shared("world")
    config = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    if experiment.quick:
        config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = experiment.stage(
        "scratch", name="shape", dataset=str(world / "corpus.jsonl"), config=config, vocab_size=2048
    )
    rows = experiment.output_dir / "pairs.jsonl"
    text = {"prompt": "Say in a few words what you like about it.", "chosen": " It is quiet. " * 20}
    rows.write_text("\n".join([json.dumps(text | {"rejected": " No. " * 40})] * 2) + "\n")
    settings = {"model": model / "model", "dataset": rows, "output_dir": Path("planned")}
    arguments = [f"{key}={value.resolve()}" for key, value in settings.items()]
    command = [sys.executable, "-m", "accord", "plan", "dpo", *arguments, "precision=bf16"]
    command += ["max_length=256", "--compare", "--json", "--memory", "64GB"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    compared: list[dict[str, Any]] = json.loads(answer.stdout)["compare"]
    return compared


def role_sizes(variant: dict[str, Any]) -> list[float]:
    """The MB of each of ROLES; the plan of an offline method calls the policy `model`."""
    roles = {("policy" if k == "model" else k): v for k, v in variant["roles"].items()}
    return [sum(v for k, v in roles.items() if k.startswith(role)) / 2**20 for role in ROLES]


def main() -> None:
    experiment = Experiment(__file__, __doc__)
    variants = planned(experiment)

    def draw(axes: Any, colours: Any) -> None:
        names = [variant["name"] for variant in variants]
        left = [0.0] * len(variants)
        for i, role in enumerate(ROLES):
            sizes = [role_sizes(variant)[i] for variant in variants]
            axes.barh(names, sizes, left=left, color=colours[i], label=role, height=0.6)
            left = [a + b for a, b in zip(left, sizes, strict=True)]
        peaks = [variant["peak"] / 2**20 for variant in variants]
        axes.plot(peaks, names, "|", color=colours[7], ms=14, mew=2, label="peak, with activations")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="memory (MB)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, columnspacing=1.0)

    header = ["form", "policy", "reference", "reward", "critic", "roles", "peak", "in phase"]
    rows = []
    for variant in variants:
        sizes = role_sizes(variant)
        cells = [f"{size:.1f}" for size in (*sizes, sum(sizes), variant["peak"] / 2**20)]
        rows.append([variant["name"], *cells, variant["phase"]])
    trained, frozen = (BYTES[kind] * BILLION for kind in ("trained", "frozen"))
    note = (
        "MB are 2²⁰ bytes. By the same count, a model of 7 billion parameters needs "
        f"{trained:.0f} GB trained and {frozen:.0f} GB frozen: {trained:.0f} GB for DPO with "
        f"stored reference log-probs, {2 * trained + 2 * frozen:.0f} GB for PPO with four models."
    )
    experiment.save(draw, header, rows, note=note)


main()
