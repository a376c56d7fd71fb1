"""Two steps of LoRA DPO of a model of 3B parameters, and the peak memory beside what was planned.

The configuration is that of a Llama of 3.2B parameters, its weights are random, and they are
written in bf16 a layer at a time, so that writing needs little memory. The steps are those of
`accord train dpo` in a process of its own; the plan is that of `accord plan` on the same settings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine_report import print_machine, write_json
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from accord.lm.scratch import train_tokenizer
from accord.lm.transformers_logging import silence_transformers

LARGE = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
WORDS = ("please write one word about the sea", "the answer is yes and not no", "a dog ran far")
STD = 0.02  # of the weights, as the configuration initialises them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantization", choices=("nf4", "none"), default="nf4")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--rows", type=int, default=2, help="pairs a step")
    parser.add_argument("--words", type=int, default=48, help="words of a prompt and of an answer")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, to try this")
    parser.add_argument("--folder", type=Path, help="where the model is written, and stays")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts = print_machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        parameters = write_model(folder / "model", TINY if args.tiny else LARGE)
        write_rows(folder / "pairs.jsonl", args.rows, args.words)
        settings = make_settings(folder, args)
        planned = plan(settings)
        measured = train(settings)
    figures = {"parameters": parameters, **vars(args), **planned, **measured, "machine": facts}
    figures = {k: str(v) if isinstance(v, Path) else v for k, v in figures.items()}
    print_figures(figures)
    write_json(args.json, figures)


def write_model(folder: Path, shape: dict[str, int]) -> int:
    """Write configuration, tokenizer and random bf16 weights; returns the number of parameters.
    A folder that has them is left as it is."""
    config = LlamaConfig(
        **shape,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with silence_transformers():
            config.save_pretrained(folder)
            train_tokenizer(WORDS, 400, 4096).save_pretrained(folder)
        generator = torch.Generator().manual_seed(0)
        places: dict[str, str] = {}
        parts = [("head", head_tensors(config, generator))]
        for layer in range(config.num_hidden_layers):
            parts.append((f"layer-{layer}", layer_tensors(config, layer, generator)))
            _write_parts(folder, parts, places)
        total = sum((folder / name).stat().st_size for name in set(places.values()))
        index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    sizes = layer_tensors(config, 0, None)
    layer_size = sum(t.numel() for t in sizes.values())
    return config.num_hidden_layers * layer_size + sum(
        t.numel() for t in head_tensors(config, None).values()
    )


def _write_parts(
    folder: Path, parts: list[tuple[str, dict[str, Tensor]]], places: dict[str, str]
) -> None:
    while parts:
        name, tensors = parts.pop()
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, f"{name}.safetensors")


def head_tensors(config: LlamaConfig, generator: torch.Generator | None) -> dict[str, Tensor]:
    return {
        "model.embed_tokens.weight": normal(config.vocab_size, config.hidden_size, generator),
        "model.norm.weight": normal(config.hidden_size, None, generator),
    }


def layer_tensors(
    config: LlamaConfig, layer: int, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """The tensors of a layer; without a generator on the meta device, for their sizes."""
    width, inner = config.hidden_size, config.intermediate_size
    keys = width // config.num_attention_heads * config.num_key_value_heads
    shapes = {
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width, None),
        "post_attention_layernorm": (width, None),
    }
    return {
        f"model.layers.{layer}.{name}.weight": normal(rows, columns, generator)
        for name, (rows, columns) in shapes.items()
    }


def normal(rows: int, columns: int | None, generator: torch.Generator | None) -> Tensor:
    """A matrix of normal numbers, or ones where there is one dimension."""
    device = "meta" if generator is None else "cpu"
    if columns is None:
        return torch.ones(rows, dtype=torch.bfloat16, device=device)
    matrix = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
    return matrix if generator is None else matrix.normal_(std=STD, generator=generator)


def write_rows(path: Path, rows: int, words: int) -> None:
    text = " ".join(WORDS).split()

    def some(start: int) -> str:
        return " ".join(text[(start + i) % len(text)] for i in range(words))

    pairs = [
        {"prompt": some(3 * i), "chosen": some(5 * i + 1), "rejected": some(7 * i + 2)}
        for i in range(2 * rows)
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def make_settings(folder: Path, args: argparse.Namespace) -> list[str]:
    quantised = [] if args.quantization == "none" else [f"quantization={args.quantization}"]
    return [
        "dpo",
        f"model={folder / 'model'}",
        f"dataset={folder / 'pairs.jsonl'}",
        f"output_dir={folder / 'run'}",
        f"per_device_train_batch_size={args.rows}",
        f"precision={args.precision}",
        f"device={args.device}",
        "max_steps=2",
        "lora.r=16",
        "gradient_checkpointing=true",
        "resume=false",
        *quantised,
    ]


def plan(settings: list[str]) -> dict[str, Any]:
    """The plan's peak, and that with the libraries, in bytes."""
    from accord.pipeline.plan.machine import CUDA_CONTEXT, LIBRARIES

    command = [sys.executable, "-m", "accord", "plan", *settings, "--json"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # 3: it does not fit
    if output.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)} failed")
    planned = json.loads(output.stdout)
    (stage,) = planned["training"]
    libraries = LIBRARIES if planned["machine"]["device"] == "cpu" else CUDA_CONTEXT
    return {
        "planned": stage["memory"]["peak"] + libraries,
        "planned_phase": stage["memory"]["phase"],
        "planned_roles": stage["memory"]["roles"],
        "planned_phases": {p["name"]: p["total"] for p in stage["memory"]["phases"]},
    }


def train(settings: list[str]) -> dict[str, Any]:
    """Run the steps; the seconds they took in all, and the peak memory of the process, in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "accord", "train", *settings])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("The training failed.")
    output = next(s for s in settings if s.startswith("output_dir=")).partition("=")[2]
    lines = (Path(output) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    peak = usage.ru_maxrss * 1024
    if torch.cuda.is_available():  # the last step's row has the device's peak
        peak = int(steps[-1]["peak_memory_mb"] * 2**20)
    return {
        "seconds": time.perf_counter() - start,
        "seconds_a_step": [step["seconds"] for step in steps],
        "losses": [step["loss"] for step in steps],
        "measured": peak,
    }


def print_figures(figures: dict[str, Any]) -> None:
    steps = ", ".join(f"{s:.1f}" for s in figures["seconds_a_step"])
    losses = ", ".join(f"{x:.6f}" for x in figures["losses"])
    print(
        f"{figures['parameters'] / 1e9:.2f}B parameters, quantization={figures['quantization']}, "
        f"{figures['precision']}: {figures['seconds']:.0f} s in all, steps of {steps} s, "
        f"losses {losses}"
    )
    ratio = figures["planned"] / figures["measured"] - 1
    print(
        f"peak memory: {figures['measured'] / 2**30:.2f} GB measured, "
        f"{figures['planned'] / 2**30:.2f} GB planned ({ratio:+.0%}; {figures['planned_phase']})"
    )


if __name__ == "__main__":
    main()
