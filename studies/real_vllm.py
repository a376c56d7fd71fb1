"""PPO and rounds of DPO on a real chat model, with answers from whole weights on a vLLM server.

    python -m studies.real_vllm --model FOLDER --dataset harmless.jsonl.gz --vllm-python PYTHON

PYTHON is that of an environment with vLLM. Full fine-tuning: before each iteration, and in each
round, the server reads all weights of the policy. Shown are the mismatch of the two engines'
log-probs, which weights that are not the policy's would make large, and the seconds of a sync. The
reward counts short sentences, so that a few iterations can raise it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.machine_report import print_machine, write_json
from benchmarks.workers.vllm_server import VllmServer

from accord.compare.dataset import load_records
from accord.data.write import record_json, write_jsonl
from accord.pipeline import run_stage
from accord.records import Comparison, prompt_json
from accord.runs import read_metrics
from accord.settings.recipe import single_stage

REWARD = """\
def short_sentences(prompts, responses):
    return [-len(r.split(".")[0].split()) / 10 for r in responses]
"""
COMMON = ("max_new_tokens=32", "max_prompt_length=128", "device=cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--vllm-python", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = print_machine()
    arguments = ("--dtype", "float32", "--max-model-len", "256")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(options.dataset, folder)
        judge = train_judge(folder, options.model.resolve())
        (folder / "mine.py").write_text(REWARD)
        reward = f"[{{kind: python, function: '{folder}/mine.py:short_sentences'}}]"
        with closing(
            VllmServer(options.vllm_python, options.model.resolve(), *arguments)
        ) as server:
            shared = [f"model={options.model.resolve()}", f"dataset={folder}/prompts.jsonl"]
            shared += ["sampler.kind=vllm", f"sampler.url={server.url}", *COMMON]
            results = {
                "ppo": run_ppo(folder / "ppo", shared, reward, options.iterations),
                "iterate": run_rounds(folder / "rounds", shared, judge),
            }
    print(json.dumps(results, indent=1))
    write_json(options.json, {"machine": machine, **results})


def write_rows(dataset: Path, folder: Path, count: int = 48) -> None:
    """prompts.jsonl and pairs.jsonl: the first pairs whose prompt is a single message."""
    records, _ = load_records(str(dataset), "comparisons")
    pairs = [r for r in records if isinstance(r, Comparison) and len(r.prompt) == 1][:count]
    prompts = [{"prompt": prompt_json(pair.prompt)} for pair in pairs]
    write_jsonl(folder / "prompts.jsonl", prompts)
    write_jsonl(folder / "pairs.jsonl", [record_json(pair) for pair in pairs])


def train_judge(folder: Path, model: Path) -> Path:
    """A reward model that judges the rounds' answers, on a LoRA adapter."""
    settings = [f"model={model}", f"dataset={folder}/pairs.jsonl", f"output_dir={folder}/judge"]
    settings += ["lora={r: 16}", "per_device_train_batch_size=8", "learning_rate=1e-4"]
    settings += ["max_length=256", "device=cpu"]
    run_stage(single_stage("train", "reward", overrides=settings))
    return folder / "judge/model"


def run_ppo(folder: Path, shared: list[str], reward: str, iterations: int) -> list[dict[str, Any]]:
    """The metrics of each iteration of full fine-tuning with a shared value head."""
    settings = [*shared, f"rewards={reward}", f"output_dir={folder}", f"max_steps={iterations}"]
    settings += ["per_device_train_batch_size=16", "learning_rate=3e-6", "missing_eos_penalty=0"]
    run_stage(single_stage("train", "ppo", overrides=settings))
    names = ("objective/scores", "sampler/mismatch_kl", "sampler/weight_mean", "objective/kl")
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: row[name] for name in names if name in row} for row in rows]


def run_rounds(folder: Path, shared: list[str], judge: Path) -> list[dict[str, Any]]:
    """What each round measured, of two rounds of full DPO."""
    settings = [*shared, f"judge={{kind: reward_model, model: {judge}}}", f"output_dir={folder}"]
    settings += ["rounds=2", "num_responses=2", "eval_prompts=8"]
    settings += ["train.learning_rate=2e-6", "train.per_device_train_batch_size=8"]
    run_stage(single_stage("iterate", overrides=settings))
    rounds: list[dict[str, Any]] = json.loads((folder / "rounds.json").read_text())["rounds"]
    return rounds


if __name__ == "__main__":
    main()
