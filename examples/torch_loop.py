"""DPO in a plain torch loop, with `accord.lm` and `accord.objectives` alone.

    python examples/torch_loop.py MODEL PAIRS.jsonl [OUTPUT_FOLDER]

MODEL is a folder or hub name; each line of PAIRS.jsonl has `prompt`, `chosen` and `rejected`.
"""

import json
import sys
from pathlib import Path

import torch

from accord.lm import PromptGroup, load_causal, pack, response_logps, save_model
from accord.objectives import dpo_loss

BATCH, EPOCHS, BETA, LEARNING_RATE = 8, 1, 0.1, 1e-5


def read_groups(path: Path, tokenizer) -> list[PromptGroup]:
    """A prompt with its two responses as token ids, the chosen one first."""

    def ids(text: str, end: bool = False) -> tuple[int, ...]:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*tokens, tokenizer.eos_token_id) if end else tuple(tokens)

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        PromptGroup(ids(row["prompt"]), (ids(row["chosen"], True), ids(row["rejected"], True)))
        for row in rows
    ]


def main(model: str, pairs: str, output: str | None = None) -> list[float]:
    lm = load_causal(model, trainable=True)
    groups = read_groups(Path(pairs), lm.tokenizer)
    batches = [pack(groups[i : i + BATCH], lm.device) for i in range(0, len(groups), BATCH)]
    with torch.no_grad():  # the reference is the starting model: its log-probs, once
        reference = [batch.per_response(response_logps(lm, batch)) for batch in batches]
    optimiser = torch.optim.AdamW(lm.trainable_parameters().values(), lr=LEARNING_RATE)
    losses = []
    for _ in range(EPOCHS):
        for batch, reference_logps in zip(batches, reference, strict=True):
            ratios = batch.per_response(response_logps(lm, batch)) - reference_logps
            chosen, rejected = ratios.view(-1, 2).unbind(1)
            loss = dpo_loss(chosen, rejected, beta=BETA).mean()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            print(f"loss {losses[-1]:.4f}")
    if output is not None:
        save_model(lm, Path(output), card="Trained by examples/torch_loop.py")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:])
