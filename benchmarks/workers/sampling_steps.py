"""One sampler, a call at a time: sends the tokens it wrote and the seconds it took.

`accord` is the local engine of `accord sample`; `generate` is transformers' `generate`, with the
prompts left-padded and `num_return_sequences`; `vllm` is a server, called as accord calls it. EOS
ends no response, so that all write equally many tokens (a server's tokens are counted).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from protocol import redirect_prints, send, wait_for_device

from accord.lm.load import load_causal
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sampler, SamplingSettings
from accord.respond.vllm.sampler import VllmSampler
from accord.settings.sampling import SamplerSettings

Prompts = Sequence[tuple[int, ...]]
Call = Callable[[int], int]  # a seed to the number of tokens written


def make_call(sampler: Sampler, prompts: Prompts, settings: SamplingSettings) -> Call:
    def call(seed: int) -> int:
        samples = sampler(prompts, settings, seed=seed, streams=range(len(prompts)))
        return sum(len(s.tokens) for of_prompt in samples for s in of_prompt)

    return call


def accord(folder: Path, prompts: Prompts, settings: SamplingSettings, _: str, device: Any) -> Call:
    lm = load_causal(str(folder / "model"), precision="bf16", device=device)
    lm.tokenizer.eos_token_id = None
    lm.model.generation_config.eos_token_id = None
    return make_call(LocalSampler(lm), prompts, settings)


def generate(
    folder: Path, prompts: Prompts, settings: SamplingSettings, _: str, device: Any
) -> Call:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16)
    model = model.to(device).eval()
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)

    def call(seed: int) -> int:
        torch.manual_seed(seed)
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=settings.max_new_tokens,
            min_new_tokens=settings.max_new_tokens,
            num_return_sequences=settings.num_responses,
            pad_token_id=0,
        )
        return int(output[:, width:].numel())

    return call


def vllm(folder: Path, prompts: Prompts, settings: SamplingSettings, url: str, device: Any) -> Call:
    sampler = VllmSampler(SamplerSettings(kind="vllm", url=url))
    return make_call(sampler, prompts, settings)


SAMPLERS = {"accord": accord, "generate": generate, "vllm": vllm}


def main() -> None:
    name, folder, prompts, responses, tokens, url, device = sys.argv[1:]
    rows = json.loads((Path(folder) / "rows.json").read_text())[: int(prompts)]
    ids = [tuple(int(w[1:]) for w in row["prompt"].split()) for row in rows]
    settings = SamplingSettings(int(responses), int(tokens))
    redirect_prints()
    with torch.no_grad():
        call = SAMPLERS[name](Path(folder), ids, settings, url, device)
        send({"threads": torch.get_num_threads()})
        for seed, _ in enumerate(sys.stdin):
            start_time, cpu_start = time.perf_counter(), time.process_time()
            num_tokens = call(seed)
            wait_for_device()
            seconds = time.perf_counter() - start_time
            cpu_seconds = time.process_time() - cpu_start
            send({"tokens": num_tokens, "seconds": seconds, "cpu_seconds": cpu_seconds})


if __name__ == "__main__":
    main()
