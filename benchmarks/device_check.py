"""Whether a GPU computes what the CPU does: log-probs, gradients, sampling, 4 bits, offload.

Six architectures with random weights: packed log-probs and all gradients in float32, log-probs in
bf16, the likeliest continuation of prompts, and with `quantization=nf4` the adapters' gradients.
The CPU's numbers in float32 are the reference. The exit code is 1 where a difference is larger than
its limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from machine_report import print_machine, write_json
from rich.console import Console
from rich.table import Table
from torch import Tensor

from accord.learn.loop.optimiser import adamw
from accord.lm.adapters.lora import add_adapters
from accord.lm.forward import response_logps
from accord.lm.load import load_causal
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.settings.training import LoraSettings, SftSettings

SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**SHAPE, "tie_word_embeddings": True},
    "qwen3": {**SHAPE, "head_dim": 32},
    "gemma3_text": {**SHAPE, "head_dim": 32, "sliding_window": 16},
    "mistral": {**SHAPE, "head_dim": 32, "sliding_window": 16},
    "gpt2": {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "qwen3_moe": {
        **SHAPE,
        "moe_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
}
TEXTS = ("the cat sat on the mat", "please write one word about the sea", "the answer is no")
# Largest difference allowed: nats of a log-prob, or a share of the largest gradient.
LIMITS = {
    "log-probs, fp32": 1e-3,
    "gradients, fp32": 1e-3,
    "log-probs, bf16": 0.2,
    "likeliest tokens": 0.0,
    "offloaded gradients": 1e-6,
    "nf4 log-probs": 2e-3,
    "nf4 gradients": 1e-2,
    "adamw_8bit": 2e-3,
    "paged_adamw_8bit": 2e-3,
}
Check = Callable[[str, str], Iterator[tuple[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--only", choices=ARCHITECTURES, action="append")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    facts, rows, start = print_machine(), [], time.perf_counter()
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 is compared
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.only or ARCHITECTURES:
            path = str(Path(temporary) / name)
            rows += attempt(name, save, path, args.device)
            for check in (compare_passes, compare_sampling, compare_quantised):
                rows += attempt(name, check, path, args.device)
                seconds = time.perf_counter() - start  # written at once: it may be ended
                write_json(args.json, {"machine": facts, "seconds": seconds, "checks": rows})
                print(f"{name}, {check.__name__}: after {seconds:.0f} s", flush=True)
            torch.compiler.reset()  # what was compiled for one model counts against the next
    rows += attempt("AdamW", compare_moments, "", args.device)
    Console().print(make_table(rows))
    seconds = time.perf_counter() - start
    write_json(args.json, {"machine": facts, "seconds": seconds, "checks": rows})
    sys.exit(any(row["failed"] for row in rows))


def attempt(name: str, check: Check, path: str, device: str) -> list[dict[str, Any]]:
    """The differences that a check measures; one that raises has failed, and the others go on."""
    rows: list[dict[str, Any]] = []
    try:
        for what, difference in check(path, device):
            failed = not difference <= LIMITS[what]
            rows.append({"name": name, "what": what, "difference": difference, "failed": failed})
    except Exception as error:  # what a device runs into is the result
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        rows.append({"name": name, "what": check.__name__, "error": text, "failed": True})
    return rows


def save(path: str, _: str) -> Iterator[tuple[str, float]]:
    """Write a model with random weights, far from uniform distributions, and its tokenizer."""
    architecture = Path(path).name
    tokenizer = train_tokenizer(TEXTS, 320, 512)
    model = untrained_model(architecture, ARCHITECTURES[architecture], tokenizer, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    save_untrained(model, tokenizer, Path(path))
    yield from ()


def groups() -> list[PromptGroup]:
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (count,), generator=generator).tolist())

    shapes = [(40, (30, 9)), (7, (4,)), (90, (60, 25, 12))]
    return [PromptGroup(tokens(n), tuple(map(tokens, ends)), ()) for n, ends in shapes]


def read(lm: LanguageModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs of the responses, and the gradient of their mean in each trained parameter."""
    parameters = lm.trainable_parameters()
    logps = response_logps(lm, pack(groups(), lm.device))
    gradients = torch.autograd.grad(logps.mean(), list(parameters.values()))
    named = zip(parameters, (g.float().cpu() for g in gradients), strict=True)
    return logps.detach().float().cpu(), dict(named)


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max())


def gradient_distance(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of a gradient, as a share of the largest gradient."""
    scale = max(float(g.abs().max()) for g in right.values())
    return max(distance(g, right[n]) for n, g in left.items()) / scale


def compare_passes(path: str, device: Any) -> Iterator[tuple[str, float]]:
    expected, gradients = read(load_causal(path, device="cpu", trainable=True))
    lm = load_causal(path, device=device, trainable=True)
    actual, here = read(lm)
    yield "log-probs, fp32", distance(actual, expected)
    yield "gradients, fp32", gradient_distance(here, gradients)
    lm.offloads_activations = True
    yield "offloaded gradients", gradient_distance(read(lm)[1], here)
    half = load_causal(path, device=device, precision="bf16")
    with torch.no_grad():
        actual = response_logps(half, pack(groups(), half.device)).float().cpu()
    yield "log-probs, bf16", float((actual - expected).abs().mean())


def compare_sampling(path: str, device: Any) -> Iterator[tuple[str, float]]:
    prompts = [group.prompt for group in groups()]
    settings = SamplingSettings(1, 16, temperature=0.0)
    found = []
    for where in ("cpu", device):
        lm = load_causal(path, device=where)
        with torch.no_grad():
            samples = LocalSampler(lm)(prompts, settings, seed=0, streams=range(len(prompts)))
        found.append([sample.tokens for of_prompt in samples for sample in of_prompt])
    yield "likeliest tokens", float(sum(a != b for a, b in zip(*found, strict=True)))


def compare_quantised(path: str, device: Any) -> Iterator[tuple[str, float]]:
    if not find_spec("bitsandbytes"):
        return
    results = []
    for where in ("cpu", device):
        lm = add_adapters(
            load_causal(path, device=where, quantization="nf4"), LoraSettings(r=4), seed=0
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in lm.trainable_parameters().values():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise.to(parameter.device))
            response_logps(lm, pack(groups(), lm.device))  # before any pass with gradients
        results.append(read(lm))
    yield "nf4 log-probs", distance(results[1][0], results[0][0])
    yield "nf4 gradients", gradient_distance(results[1][1], results[0][1])


def compare_moments(_: str, device: Any) -> Iterator[tuple[str, float]]:
    """Steps with 8-bit moments against the same with float32 moments on the CPU."""
    if not find_spec("bitsandbytes"):
        return
    exact = take_steps("adamw", "cpu")
    yield "adamw_8bit", distance(take_steps("adamw_8bit", device), exact)
    if device == "cuda":
        yield "paged_adamw_8bit", distance(take_steps("paged_adamw_8bit", device), exact)


def take_steps(optim: str, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(512, 512, generator=generator).to(device))
    values: dict[str, Any] = {"model": "m", "dataset": "d", "output_dir": "o", "optim": optim}
    optimiser = adamw([parameter], SftSettings(**values), 1e-3)
    for _ in range(5):
        gradient = torch.randn(512, 512, generator=generator) + 0.5
        parameter.grad = gradient.to(device)
        optimiser.step()
    return parameter.detach().cpu()


def make_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="against the CPU in float32")
    for column in ("of", "what", "difference", "limit", ""):
        table.add_column(column)
    for row in rows:
        shown = row.get("error") or f"{row['difference']:.2g}"
        limit = "" if "error" in row else f"{LIMITS[row['what']]:g}"
        verdict = "[red]wrong" if row["failed"] else "[green]ok"
        table.add_row(row["name"], row["what"], shown, limit, verdict)
    return table


if __name__ == "__main__":
    main()
