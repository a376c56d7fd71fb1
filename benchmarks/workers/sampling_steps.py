"""One sampler, call by call: waits for a line, answers the prompts, tells tokens and seconds.

`accord` is the local engine of `accord sample`; `generate` is transformers' own, with the prompts
padded on the left and `num_return_sequences`; `vllm` a server, asked as accord asks it. EOS ends
no response, so that all write as many tokens (a server's tokens are counted).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from accord.lm.load import load_causal
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import SamplingSettings
from accord.respond.vllm.sampler import VllmSampler
from accord.settings.sampling import SamplerSettings

Prompts = Sequence[tuple[int, ...]]
Call = Callable[[int], int]  # a seed to the number of tokens written


def accord(folder: Path, prompts: Prompts, settings: SamplingSettings, _: str) -> Call:
    lm = load_causal(str(folder / "model"), precision="bf16", device="cpu")
    lm.tokenizer.eos_token_id = None
    lm.model.generation_config.eos_token_id = None
    sampler = LocalSampler(lm)

    def call(seed: int) -> int:
        found = sampler(prompts, settings, seed=seed, streams=range(len(prompts)))
        return sum(len(s.tokens) for own in found for s in own)

    return call


def generate(folder: Path, prompts: Prompts, settings: SamplingSettings, _: str) -> Call:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).eval()
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1

    def call(seed: int) -> int:
        torch.manual_seed(seed)
        out = model.generate(
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
        return int(out[:, width:].numel())

    return call


def vllm(folder: Path, prompts: Prompts, settings: SamplingSettings, url: str) -> Call:
    sampler = VllmSampler(SamplerSettings(kind="vllm", url=url))

    def call(seed: int) -> int:
        found = sampler(prompts, settings, seed=seed, streams=range(len(prompts)))
        return sum(len(s.tokens) for own in found for s in own)

    return call


SAMPLERS = {"accord": accord, "generate": generate, "vllm": vllm}


def main() -> None:
    name, folder, prompts, responses, tokens, url = sys.argv[1:]
    rows = json.loads((Path(folder) / "rows.json").read_text())[: int(prompts)]
    ids = [tuple(int(w[1:]) for w in row["prompt"].split()) for row in rows]
    settings = SamplingSettings(int(responses), int(tokens))
    told, sys.stdout = sys.stdout, sys.stderr
    with torch.no_grad():
        call = SAMPLERS[name](Path(folder), ids, settings, url)
        print(json.dumps({"threads": torch.get_num_threads()}), file=told, flush=True)
        for seed, _ in enumerate(sys.stdin):
            began, used = time.perf_counter(), time.process_time()
            tokens = call(seed)
            seconds = time.perf_counter() - began
            used = time.process_time() - used
            found = {"tokens": tokens, "seconds": seconds, "cpu_seconds": used}
            print(json.dumps(found), file=told, flush=True)


if __name__ == "__main__":
    main()
