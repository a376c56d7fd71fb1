"""PPO and rounds of DPO on a real chat model, with answers from whole weights on a vLLM server.

    python -m studies.real_vllm --model FOLDER --dataset harmless.jsonl.gz --vllm-python PYTHON

PYTHON is that of an environment with vLLM. Full fine-tuning: before each iteration, and in each
round, the server reads all weights of the policy. Shown are the mismatch of the two engines'
log-probs, which weights that are not the policy's would make large, and the seconds of an
iteration. The reward counts short sentences, so that a few iterations can raise it.

With --colocate vLLM runs in this process, which then needs both accord and vLLM, and gets the
weights without a file. With --processes N that many processes divide the models of PPO
(sharding=fsdp). --only leaves out the other method.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
    parser.add_argument("--vllm-python", type=Path)
    parser.add_argument("--colocate", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--only", choices=("ppo", "iterate"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.colocate == (options.vllm_python is not None):
        parser.error("give one of --vllm-python and --colocate")
    if options.colocate and options.processes > 1:
        parser.error("--processes needs a server: --vllm-python")
    machine = print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(options.dataset, folder, options.prompts)
        (folder / "mine.py").write_text(REWARD)
        shared = [f"model={options.model.resolve()}", f"dataset={folder}/prompts.jsonl"]
        shared += ["sampler.kind=vllm", *COMMON]
        results = {}
        with sampler_settings(options) as sampler:
            shared += sampler
            if options.only != "iterate":
                reward = f"[{{kind: python, function: '{folder}/mine.py:short_sentences'}}]"
                results["ppo"] = run_ppo(
                    folder / "ppo", shared, reward, options.iterations, options.processes
                )
                print(json.dumps(results, indent=1), flush=True)
            if options.only != "ppo":
                judge = train_judge(folder, options.model.resolve())
                results["iterate"] = run_rounds(folder / "rounds", shared, judge)
    print(json.dumps(results, indent=1))
    sizes = {
        "prompts": options.prompts,
        "colocate": options.colocate,
        "processes": options.processes,
    }
    write_json(options.json, {"machine": machine, **sizes, **results})


@contextmanager
def sampler_settings(options: argparse.Namespace) -> Iterator[list[str]]:
    """The settings that name vLLM: in this process, or a server that runs meanwhile."""
    if options.colocate:
        yield ["sampler.mode=colocate"]
        return
    arguments = ("--dtype", "float32", "--max-model-len", "256")
    with closing(VllmServer(options.vllm_python, options.model.resolve(), *arguments)) as server:
        yield [f"sampler.url={server.url}"]


def write_rows(dataset: Path, folder: Path, count: int) -> None:
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


def run_ppo(
    folder: Path, shared: list[str], reward: str, iterations: int, processes: int
) -> list[dict[str, Any]]:
    """The metrics of each iteration of full fine-tuning with a shared value head."""
    settings = [*shared, f"rewards={reward}", f"output_dir={folder}", f"max_steps={iterations}"]
    settings += [f"per_device_train_batch_size={16 // processes}", "learning_rate=3e-6"]
    settings += ["missing_eos_penalty=0", "critic=shared"]
    if processes == 1:
        run_stage(single_stage("train", "ppo", overrides=settings))
    else:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(processes), "-m", "accord", "train", "ppo"]
        subprocess.run([*launcher, *settings, "sharding=fsdp"], check=True)
    names = (
        "objective/scores",
        "sampler/mismatch_kl",
        "sampler/weight_mean",
        "objective/kl",
        "seconds",
    )
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
