"""What vLLM in this process computes, as JSON; the Python that runs it has accord and vLLM.

    python -m tests.respond.colocated_worker FOLDER

Trains two toys by GRPO, full and with adapters, and samples with greedy and stop strings from what
they became, beside the local engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from accord.data.write import read_responses
from accord.learn.online.train import train_online
from accord.pipeline.stages.sample import sample
from accord.settings.stage_kinds import METHOD_SETTINGS
from accord.settings.stages import SampleSettings
from tests.respond.vllm_toy import save_word_model

COLOCATE = {"kind": "vllm", "mode": "colocate"}
KEYS = ("sampler/mismatch_kl", "sampler/weight_mean", "objective/kl", "objective/scores")


def main(folder: Path) -> None:
    model = save_word_model(folder / "model", tied=True)
    (folder / "prompts.jsonl").write_text('{"prompt": "w5 w6"}\n{"prompt": "w9 w10"}\n')
    (folder / "mine.py").write_text(
        "def low(prompts, responses):\n"
        "    return [float(sum(w in LOW for w in r.split())) for r in responses]\n"
        "LOW = {f'w{i}' for i in range(3, 50)}\n"
    )
    results: dict[str, Any] = {}
    for name, lora in {"full": None, "lora": {"r": 8}}.items():
        results[name] = train(folder, model, name, lora)
        trained = str(folder / name / "model")
        results[f"{name} greedy"] = {
            kind: texts(folder, trained, f"{name}-{kind}", sampler, temperature=0.0)
            for kind, sampler in {"vllm": COLOCATE, "local": {}}.items()
        }
    stopped = texts(folder, model, "stopped", COLOCATE, stop=["w1"], num_responses=20)
    again = texts(folder, model, "again", COLOCATE, stop=["w1"], num_responses=20)
    print("RESULTS " + json.dumps({**results, "stopped": stopped, "again": again}))


def train(
    folder: Path, model: str, name: str, lora: dict[str, int] | None
) -> list[dict[str, float]]:
    settings = METHOD_SETTINGS["grpo"](
        model=model,
        dataset=str(folder / "prompts.jsonl"),
        output_dir=str(folder / name),
        rewards=[{"kind": "python", "function": f"{folder / 'mine.py'}:low"}],
        sampler=COLOCATE,
        lora=lora,
        per_device_train_batch_size=64,
        num_generations=32,
        max_new_tokens=8,
        max_length=32,
        max_steps=8,
        learning_rate=2e-2 if lora else 2e-3,
        lr_scheduler_type="constant",
        missing_eos_penalty=0.0,
        device="cpu",
    )
    return [{key: r.metrics[key] for key in KEYS} for r in train_online("grpo", settings)]  # type: ignore[arg-type]


def texts(
    folder: Path, model: str, name: str, sampler: dict[str, str], **values: Any
) -> list[list[str]]:
    settings = SampleSettings(
        model=model,
        dataset=str(folder / "prompts.jsonl"),
        output_dir=str(folder / name),
        max_new_tokens=12,
        max_prompt_length=20,
        sampler=sampler,
        device="cpu",
        **values,
    )
    for _ in sample(settings):
        pass
    rows = read_responses(folder / name / "responses.jsonl")
    return [[response.text for response in row.responses] for row in rows]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
