"""Constitutional AI on a real chat model, with a rule-based judge over HTTP for a large one.

    python studies/real_constitution.py --model FOLDER --harmful advbench_behaviors.csv \\
        --harmless question.jsonl --test prompts.csv --output-dir runs/real-constitution

FOLDER is a chat model as `save_pretrained` writes it; the study was made for
SmolLM2-135M-Instruct. It answers harmful requests (AdvBench) and harmless ones (MT-Bench), and
criticises and revises its own answers by `harmless`. A server on this machine judges by a rule that
knows which requests are harmful: there a refusal is better, elsewhere an answer, and a whole one.
Then SFT on the revisions, labels by the judge, a reward model and PPO, all LoRA in bf16. Refusals
are measured on XSTest, whose safe requests only sound dangerous; none of it is trained on.

The counts of revisions and evaluation.json are printed, and the seconds of each stage. Finished
stages are not repeated. `--rows` and `--test-rows` set the size; with `--short` answers are shorter
and PPO takes one step, which shows that all of it works.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from accord.measure.texts.refusals import is_refusal
from accord.runs import machine

JUDGE = "rules"
_TEXTS = re.compile(r"<(prompt|response-A|response-B)-(\w+)>\n(.*?)\n</\1-\2>", re.DOTALL)
LONGEST = 400  # characters of a harmless request
MODELS = ("base", "revised", "ppo")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("model", "harmful", "harmless", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/real-constitution"))
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--rows", type=int, default=32, help="harmful and harmless rows, each")
    parser.add_argument("--test-rows", type=int, default=32, help="unsafe and safe rows, each")
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    folder = options.output_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    train = read_training_rows(options.harmful, options.harmless, options.rows)
    test = read_test_rows(options.test, options.test_rows)
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "test.jsonl", test)
    harmful = {row["prompt"][0]["content"]: row["meta"]["kind"] == "harmful" for row in train}
    with rule_judge(harmful, options.port) as url:
        recipe = make_recipe(str(options.model.resolve()), folder, url, short=options.short)
        run_recipe(recipe, folder)
    print(summary(folder / "run"))
    print(f"\n{platform.machine()}, {machine()['cores']} cores, {time.strftime('%Y-%m-%d')}.")


def read_training_rows(harmful: Path, harmless: Path, count: int) -> list[dict[str, Any]]:
    """`count` harmful requests of AdvBench and as many first turns of MT-Bench, in turns."""
    with harmful.open(encoding="utf-8", newline="") as file:
        bad = [row["Behavior"] for row in csv.DictReader(file)]
    with harmless.open(encoding="utf-8") as lines:
        first_turns = [json.loads(line)["turns"][0] for line in lines]
    good = [text for text in first_turns if len(text) <= LONGEST]
    rows = []
    for bad_text, good_text in zip(spread(bad, count), spread(good, count), strict=True):
        rows += [make_row(bad_text, "harmful"), make_row(good_text, "safe")]
    return rows


def read_test_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """`count` unsafe and as many safe requests of XSTest, of all its types."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {"unsafe": "harmful", "safe": "safe"}
    return [
        make_row(row["prompt"], kinds[label])
        for label in kinds
        for row in spread([row for row in rows if row["label"] == label], count)
    ]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items at equal distances."""
    return [items[i * len(items) // count] for i in range(count)]


def make_row(text: str, kind: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": text}], "meta": {"kind": kind}}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def utility(response: str, *, harmful: bool) -> float:
    """How good a response is by the rule: a refusal of what is harmful, else an answer, and one
    that ends."""
    if harmful:
        return float(is_refusal(response))
    return 1.0 - is_refusal(response) + 0.5 * response.rstrip().endswith((".", "!", "?"))


@contextmanager
def rule_judge(harmful: Mapping[str, bool], port: int) -> Iterator[str]:
    """A server with OpenAI's chat completions that judges by the rule; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            texts = {name: text for name, _, text in _TEXTS.findall(body["messages"][0]["content"])}
            is_harmful = harmful[texts["prompt"]]
            a, b = (utility(texts[f"response-{n}"], harmful=is_harmful) for n in "AB")
            verdict = "tie" if a == b else "A" if a > b else "B"
            content = json.dumps({"reason": "by the rule", "verdict": verdict})
            reply = {
                "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0},
            }
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def make_recipe(model: str, folder: Path, url: str, *, short: bool) -> dict[str, Any]:
    """The stages as `accord run` reads them."""
    judge = {"kind": "endpoint", "base_url": url, "model": JUDGE}
    train = {"precision": "bf16", "lora": {}, "max_length": 384, "max_prompt_length": 256}
    rows, test = str(folder / "train.jsonl"), str(folder / "test.jsonl")
    tokens = 24 if short else 48

    def sample(name: str, of: str, dataset: str, responses: int = 1) -> dict[str, Any]:
        return {
            "stage": "sample",
            "name": name,
            "model": of,
            "model_name": name.removesuffix("-test"),
            "dataset": dataset,
            "num_responses": responses,
            "max_new_tokens": tokens,
            "max_prompt_length": 256,
            "precision": "bf16",
        }

    unchecked = {"filter": {"unchecked_judges": [JUDGE]}}
    return {
        "seed": 0,
        "stages": [
            sample("answers", model, rows),
            {
                "stage": "revise",
                "responses": "$answers/responses.jsonl",
                "constitution": ["harmless"],
                "rounds": 1,
                "reviser": {
                    "kind": "local",
                    "model": model,
                    "answer_tokens": 2 * tokens,
                    "precision": "bf16",
                },
                "judge": judge,
            },
            {
                "stage": "train",
                "name": "revised",
                "method": "sft",
                "model": model,
                "dataset": "$revise/sft.jsonl",
                "per_device_train_batch_size": 8,
                "num_train_epochs": 2,
                "learning_rate": 5e-4,
                **train,
            },
            sample("responses", "$revised/model", rows, responses=2),
            {
                "stage": "compare",
                "name": "labels",
                "responses": ["$responses/responses.jsonl"],
                "earlier": "$revise/store.db",
                "judge": judge,
            },
            {
                "stage": "train",
                "name": "reward",
                "method": "reward",
                "model": "$revised/model",
                "dataset": "$labels/store.db",
                "per_device_train_batch_size": 8,
                "num_train_epochs": 2,
                "learning_rate": 5e-4,
                **train,
                **unchecked,
            },
            {
                "stage": "train",
                "name": "ppo",
                "method": "ppo",
                "model": "$revised/model",
                "reward_model": "$reward/model",
                "dataset": rows,
                "per_device_train_batch_size": 16,
                "num_generations": 2,
                "max_new_tokens": tokens,
                "max_steps": 1 if short else 4,
                "learning_rate": 1e-4,
                **train,
            },
            *(
                sample(f"{name}-test", model if name == "base" else f"${name}/model", test)
                for name in MODELS
            ),
            {
                "stage": "evaluate",
                "contestants": [
                    {
                        "name": name,
                        "responses": f"${name}-test/responses.jsonl",
                        "model": model if name == "base" else f"${name}/model",
                    }
                    for name in MODELS
                ],
                "reference": model,
                "reward_model": "$reward/model",
            },
        ],
    }


def run_recipe(recipe: dict[str, Any], folder: Path) -> None:
    """Run a recipe by the command, as a user would. Exits where it fails."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "accord", "run", str(path), f"output_dir={folder / 'run'}"]
    process = subprocess.run(command, check=False)
    if process.returncode:
        sys.exit(process.returncode)


def summary(run: Path) -> str:
    """What the revisions came to, the models' refusals, and the seconds of each stage."""
    counts = json.loads((run / "revise/revise.json").read_text(encoding="utf-8"))
    evaluation = json.loads((run / "evaluate/evaluation.json").read_text(encoding="utf-8"))
    stages = [json.loads(path.read_text("utf-8")) for path in run.glob("*/stage.json")]
    lines = [json.dumps(counts, indent=1), json.dumps(evaluation, indent=1)]
    seconds = sorted(stages, key=lambda stage: str(stage["finished"]))
    lines += [f"{stage['name']}: {stage['seconds']:.0f} s" for stage in seconds]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
