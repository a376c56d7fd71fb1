"""One training step of each method on a real model beside TRL's, and a reward model that TRL made.

TRL runs in an environment of its own: the program of tests/learn/offline/trl_parity writes the loss
and the gradient of every parameter. Both sides read the same folder and the same rows, in fp32.

SmolLM2's template writes a line break behind the token that ends an answer. TRL learns that line
break too, and its reward model reads there, while accord's answers end where sampling ends. So the
steps are taken on a copy of the model whose template ends with the answer, and one step on the
model as it is, to show the difference. The copy also pads with a token other than the end token:
transformers reads no score at a token that pads.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from accord.compare.dataset import load_records
from accord.learn.offline.methods import METHODS
from accord.learn.offline.mismatched import mismatched_groups
from accord.learn.offline.rows import encode_rows
from accord.lm import LanguageModel, PackedBatch, load_causal, load_scalar, pack, response_logps
from accord.records import Comparison, prompt_json
from accord.settings.stage_kinds import METHOD_SETTINGS

ROOT = Path(__file__).resolve().parent.parent
ORACLE = ROOT / "tests" / "learn" / "offline" / "trl_parity" / "oracle.py"
NUM_ROWS = 4
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3


@dataclass(frozen=True)
class Step:
    """A training step that both take: TRL's trainer with its configuration, and accord's."""

    trainer: str
    config: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)


LENGTH = {"max_length": 1024}
STEPS = {
    "sft": Step("sft", {**LENGTH, "packing": False}),
    "dpo": Step("dpo", {**LENGTH, "beta": 0.1}, {"beta": 0.1}),
    "kto": Step("kto", {**LENGTH, "beta": 0.1}, {"beta": 0.1}),
    "orpo": Step("orpo", {**LENGTH, "beta": 0.1}, {"beta": 0.1, "nll_on": "prompt_and_response"}),
    "reward": Step("reward", {**LENGTH}),
}


def trl_checks(
    folder: Path, base: str, pairs: Sequence[Comparison], trl_python: Path
) -> list[dict[str, Any]]:
    """A row for each method: the loss and the gradients of one step on the first pairs."""
    work = folder / "trl"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    copies = make_copies(base, work)
    checks = []
    for name, step in STEPS.items():
        model = copies["scalar" if name == "reward" else "causal"]
        checks.append(check_step(name, step, model, pairs[:NUM_ROWS], work, trl_python))
    as_is = check_step("sft", STEPS["sft"], base, pairs[:NUM_ROWS], work, trl_python)
    as_is["what"] += ", its template as it is"
    return [*checks, as_is | {"equal": None}]


def make_reward_model(folder: Path, base: str, rows: Path, trl_python: Path) -> str:
    """A second-hand reward model: TRL trains and saves it (studies/real_trl_reward.py)."""
    model = folder / "trl-reward"
    if not model.is_dir():
        command = [trl_python, ROOT / "studies" / "real_trl_reward.py", base, rows, model]
        subprocess.run(command, check=True, capture_output=True)
    return str(model)


def make_copies(base: str, work: Path) -> dict[str, str]:
    """The base, and the base with a new scalar head, with the template that ends with the answer
    and a padding token of its own, saved as transformers saves them."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (
        "{% set text %}" + tokenizer.chat_template + "{% endset %}"
        "{{ text if add_generation_prompt else text.rstrip() }}"
    )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    torch.manual_seed(0)
    folders = {}
    for name, auto in (
        ("causal", AutoModelForCausalLM),
        ("scalar", AutoModelForSequenceClassification),
    ):
        options = {"num_labels": 1} if name == "scalar" else {}
        model = auto.from_pretrained(base, dtype=torch.float32, **options)
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(work / name)
        tokenizer.save_pretrained(work / name)
        folders[name] = str(work / name)
    return folders


def check_step(
    name: str, step: Step, model: str, pairs: Sequence[Comparison], work: Path, trl_python: Path
) -> dict[str, Any]:
    rows = make_rows(name, pairs)
    case: dict[str, Any] = {
        "name": name,
        "trainer": step.trainer,
        "config": step.config,
        "rows": rows,
        "model": model,
    }
    if name in ("dpo", "kto"):
        case["reference"] = model
    tensors = run_oracle(trl_python, work, case)
    check = compare_step(name, step, model, rows, work, tensors)
    tensors.unlink()
    return check


def make_rows(name: str, pairs: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Rows with lists of messages, as TRL documents them."""

    def turn(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows: list[dict[str, Any]] = []
    for i, pair in enumerate(pairs):
        prompt = prompt_json(pair.prompt)
        if name == "sft":
            rows.append({"prompt": prompt, "completion": turn(pair.chosen)})
        elif name == "kto":
            text = pair.chosen if i % 2 else pair.rejected
            rows.append({"prompt": prompt, "completion": turn(text), "label": bool(i % 2)})
        else:
            both = {"chosen": turn(pair.chosen), "rejected": turn(pair.rejected)}
            rows.append({"prompt": prompt, **both})
    return rows


def run_oracle(trl_python: Path, work: Path, case: dict[str, Any]) -> Path:
    """TRL's step; returns the file of its loss and gradients."""
    job = work / "job.json"
    job.write_text(json.dumps({"output": str(work), "cases": [case]}), encoding="utf-8")
    subprocess.run([trl_python, ORACLE, job], check=True, capture_output=True)
    return work / f"{case['name']}.safetensors"


def compare_step(
    name: str, step: Step, model: str, rows: list[dict[str, Any]], work: Path, tensors: Path
) -> dict[str, Any]:
    lm, loss = accord_step(name, step, model, rows, work)
    loss.backward()
    squares, norm = 0.0, 0.0
    with safe_open(tensors, "pt") as trl:
        expected_loss = float(trl.get_tensor("loss"))
        for parameter_name, parameter in lm.trainable_parameters().items():
            expected = trl.get_tensor(f"gradient.{parameter_name}")
            assert parameter.grad is not None, parameter_name
            squares += float((parameter.grad - expected).double().square().sum())
            norm += float(expected.double().square().sum())
    difference = abs(float(loss.detach()) - expected_loss) / abs(expected_loss)
    distance = (squares / norm) ** 0.5
    return {
        "what": f"{name}: loss and gradients of one step on {len(rows)} rows",
        "beside": "TRL",
        "result": f"{float(loss.detach()):.6f} and {expected_loss:.6f}; gradients differ by "
        f"{distance:.1e} of their norm",
        "equal": difference < LOSS_TOLERANCE and distance < GRADIENT_TOLERANCE,
    }


def accord_step(
    name: str, step: Step, model: str, rows: list[dict[str, Any]], work: Path
) -> tuple[LanguageModel, Tensor]:
    """The model, and its loss on one packed batch of all rows."""
    method, dataset = METHODS[name], work / "rows.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {"model": model, "dataset": str(dataset), "output_dir": str(work / "output")}
    settings: Any = METHOD_SETTINGS[name](**options, **step.settings)
    load_model = load_scalar if method.scalar else load_causal
    lm = load_model(model, device="cpu", trainable=True)
    records, _ = load_records(str(dataset), method.kind)
    groups, _ = encode_rows(records, lm, settings)
    if name == "kto":
        settings = with_shift_of_trl(settings, groups)
    reference_lm = None if method.scalar else load_causal(model, device="cpu")

    @torch.no_grad()
    def reference(batch: PackedBatch, rows: Sequence[int]) -> Tensor:
        assert reference_lm is not None
        return response_logps(reference_lm, batch)

    objective = method.objective(lm, settings, groups, lambda groups: reference)
    all_rows = range(len(groups))
    context = objective.prepare(all_rows)
    losses = objective.losses(pack(groups, "cpu"), all_rows, context, log=False)
    return lm, losses.weighted_sum() / losses.weights.sum()


def with_shift_of_trl(settings: Any, groups: Sequence[Any]) -> Any:
    """Settings whose seed matches each prompt with the row before, as TRL does."""
    for seed in range(100):
        seeded = settings.model_copy(update={"seed": seed})
        mismatched = mismatched_groups(groups, seeded)
        if all(extra.responses == groups[i - 1].responses for i, extra in enumerate(mismatched)):
            return seeded
    raise ValueError("no seed of 100 matches prompts as TRL does")
