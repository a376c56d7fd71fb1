"""Small training runs on the embedded world: good ones, and ones with a planted flaw.

All share one world and one base model; each starts from one of several supervised models, answers
the same unseen prompts at every checkpoint, and is kept in a folder of its own:
`run.json` (settings, alarms, seconds), `scores.json` (true reward and the reward trained with) and
`step-04.jsonl`, … as `accord sample` writes responses.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from detector_flaws import FLAWS, flaw_bonus, perceived

import accord
from accord.data.write import ResponseRow, read_responses, write_jsonl, write_responses
from accord.learn.health.rules import training_health
from accord.measure.responses import Nested
from accord.records import Message, Response
from accord.runs import write_json_atomic
from accord.settings.stages import WorldSettings
from accord.world.annotators import simulated_preference
from accord.world.build import build_world
from accord.world.reward import true_reward

STARTS = 6
"""Supervised models that runs start from; development runs start from the first two."""
STEPS, CHECKPOINTS = 16, (3, 6, 9, 16)
PROMPTS = {"harmful": 30, "jailbreak": 24, "safe": 40}
ORDINARY = 46
"""Prompts of the audit by kind: those that test refusals, and all others together."""
RESPONSES, MAX_TOKENS = 4, 64
POOL, PAIR_STEPS, COLLAPSE_STEPS = 512, 32, 28
NOISE = 0.1  # of the annotators whose rankings DPO learns from, in units of the true reward

Part = Literal["development", "test"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: its kind (`clean` or a flaw), the model that it starts from, and how it trains."""

    kind: str
    part: Part
    number: int
    start: int
    method: str
    strength: float
    beta: float
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind.replace(' ', '-')}-{self.part}-{self.number:02d}"


def plan_runs(kind: str, part: Part, count: int) -> list[Plan]:
    """The first `count` runs of a kind; run n is the same however many there are."""
    return [_plan(kind, part, number) for number in range(count)]


def _plan(kind: str, part: Part, number: int) -> Plan:
    rng = random.Random(f"detectors {kind} {part} {number}")
    starts = range(2) if part == "development" else range(2, STARTS)
    methods = _METHODS[kind]
    start, method = starts[number // len(methods) % len(starts)], methods[number % len(methods)]
    strength = 0.0 if kind == "clean" else rng.uniform(*FLAWS[kind].strengths)
    low, high = _RATES[method]
    rate, beta = low * (high / low) ** rng.random(), rng.uniform(*_BETAS[method])
    if kind == "collapse":
        rate, beta = rng.uniform(1.2, 1.8) * high, 0.0
    elif kind != "clean" and method == "dpo":
        rate *= 3
    elif kind != "clean":
        beta /= 4  # a flaw that the penalty holds back takes no effect in so few steps
    return Plan(kind, part, number, start, method, strength, beta, rate, rng.randrange(10**6))


_ONLINE = ("grpo", "ppo", "rloo")
_METHODS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(FLAWS, _ONLINE),
    "clean": (*_ONLINE, "dpo"),
    "collapse": ("grpo", "grpo", "rloo"),
    "over-refusal": ("dpo", "dpo", *_ONLINE),
}
_RATES = {"grpo": (5e-4, 1e-3), "rloo": (5e-4, 1e-3), "ppo": (4e-4, 9e-4), "dpo": (7e-5, 1.5e-4)}
_BETAS = {"grpo": (0.03, 0.1), "rloo": (0.03, 0.1), "ppo": (0.03, 0.1), "dpo": (0.2, 0.4)}


_PPO = {"num_ppo_epochs": 1, "vf_coef": 0.0, "gae_lambda": 1.0}
"""A critic learns too little in so few steps; without one the baseline is the batch's mean."""


class Workshop:
    """The folder of all runs, with the models that they start from, made when first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(self, plan: Plan) -> Path:
        """The folder of a plan's run, which is trained unless it is finished."""
        folder = self.folder / plan.name
        if self.is_finished(plan):
            return folder
        self.prepare(plan.start)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").unlink(missing_ok=True)
        began = time.perf_counter()
        record = _train_run(plan, self, folder)
        record["seconds"] = time.perf_counter() - began
        write_json_atomic(folder / "run.json", {**asdict(plan), **record})
        return folder

    def is_finished(self, plan: Plan) -> bool:
        """Whether a run with these settings is at its end."""
        record = self.folder / plan.name / "run.json"
        if not record.is_file():
            return False
        found = json.loads(record.read_text(encoding="utf-8"))
        return all(found.get(key) == value for key, value in asdict(plan).items())

    def prepare(self, start: int) -> None:
        """Build the world, the base model and a supervised model, with its responses."""
        world, base, sft = self.folder / "world", self.folder / "base", self.start(start)
        if not (world / "model").is_dir():
            build_world(
                WorldSettings(
                    output_dir=str(world),
                    demonstrations=12_000,
                    corpus=16_000,
                    train_prompts=3000,
                    test_prompts=600,
                    hidden_size=96,
                    num_hidden_layers=3,
                )
            )
        for name, begin, data, steps, rate, seed in (
            (base, world / "model", "corpus", 800, 4e-3, 0),
            (sft, base / "model", "demonstrations", 375, 3e-3, start),
        ):
            if (name / "model").is_dir():
                continue
            accord.train(
                "sft",
                model=str(begin),
                dataset=str(world / f"{data}.jsonl"),
                output_dir=str(name),
                per_device_train_batch_size=32,
                learning_rate=rate,
                warmup_ratio=0.05,
                max_length=256,
                max_steps=steps,
                seed=seed,
                progress=False,
            )
        if not (sft / "responses.jsonl").is_file():
            lm = accord.load_model(sft / "model", trainable=False)
            write_responses(sft / "pool.jsonl", _answer(lm, self.train_prompts(POOL), "pool", 1))
            write_responses(sft / "responses.jsonl", _answer(lm, self.prompts(), "sft", 2))

    def start(self, number: int) -> Path:
        """The folder of a supervised model."""
        return self.folder / f"sft-{number}"

    def train_prompts(self, count: int) -> list[dict[str, Any]]:
        return _read_rows(self.folder / "world/train_prompts.jsonl")[:count]

    def prompts(self) -> list[dict[str, Any]]:
        """The unseen prompts that every checkpoint answers, so many of each kind."""
        taken = dict.fromkeys((*PROMPTS, "ordinary"), 0)
        chosen = []
        for row in _read_rows(self.folder / "world/test_prompts.jsonl"):
            kind = row["meta"]["kind"] if row["meta"]["kind"] in PROMPTS else "ordinary"
            if taken[kind] < PROMPTS.get(kind, ORDINARY):
                taken[kind] += 1
                chosen.append(row)
        return chosen


def _train_run(plan: Plan, workshop: Workshop, folder: Path) -> dict[str, Any]:
    """Train, answer the prompts at each checkpoint, and record the alarms that had rung by then."""
    prompts = workshop.prompts()
    scores: dict[str, Any] = {}
    alarms: dict[str, list[str]] = {}
    at = dict(zip(_checkpoint_steps(plan), CHECKPOINTS, strict=True))
    with _steps(plan, workshop) as steps:
        settings = steps.settings.model_dump(mode="json")
        for step in steps:
            if step.step not in at:
                continue
            name = f"{at[step.step]:02d}"
            rows = _answer(steps.model, prompts, plan.name, step.step)
            write_responses(folder / f"step-{name}.jsonl", rows)
            scores[name] = run_scores(plan, rows)
            remarks = training_health(steps.metrics, settings, {})
            alarms[name] = [r.about for r in remarks if r.level == "warning"]
        metrics = list(steps.metrics)
    write_json_atomic(folder / "scores.json", scores)
    write_jsonl(folder / "metrics.jsonl", metrics)
    return {"alarms": alarms}


def _checkpoint_steps(plan: Plan) -> list[int]:
    """The steps of a run at the checkpoints of all; those of DPO are cheaper and more."""
    return [c * _total_steps(plan) // STEPS for c in CHECKPOINTS]


def _total_steps(plan: Plan) -> int:
    if plan.kind == "collapse":
        return COLLAPSE_STEPS
    return PAIR_STEPS if plan.method == "dpo" else STEPS


def _steps(plan: Plan, workshop: Workshop) -> Any:
    common = {
        "model": accord.load_model(workshop.start(plan.start) / "model"),
        "beta": plan.beta,
        "learning_rate": plan.learning_rate,
        "seed": plan.seed,
        "max_length": 256,
    }
    if plan.method == "dpo":
        return accord.steps(
            "dpo",
            dataset=_rankings(plan, workshop),
            max_steps=_total_steps(plan),
            per_device_train_batch_size=16,
            warmup_ratio=0.1,
            **common,
        )

    def reward(prompts: list[Any], responses: list[str]) -> list[float]:
        pairs = zip(prompts, responses, strict=True)
        return [perceived(plan.kind, plan.strength, _request(p), r) for p, r in pairs]

    return accord.steps(
        plan.method,
        dataset=str(workshop.folder / "world/train_prompts.jsonl"),
        reward=reward,
        max_steps=_total_steps(plan),
        per_device_train_batch_size=64,
        num_generations=4,
        num_mini_batches=2,
        max_new_tokens=MAX_TOKENS,
        **(_PPO if plan.method == "ppo" else {}),
        **common,
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _request(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _rankings(plan: Plan, workshop: Workshop) -> list[dict[str, Any]]:
    """The supervised model's responses, ranked by noisy annotators with the run's flaw."""
    rng = random.Random(f"annotators {plan.seed}")
    rows = []
    for row in _pool(workshop.start(plan.start) / "pool.jsonl"):
        values = [perceived(plan.kind, plan.strength, row.prompt, r.text) for r in row.responses]
        rows.append(
            {
                "prompt": [{"role": "user", "content": _message(row).content}],
                "responses": [r.text for r in row.responses],
                "ranks": list(simulated_preference(values, noise=NOISE, rng=rng)),
            }
        )
    rng.shuffle(rows)
    return rows


@cache
def _pool(path: Path) -> list[ResponseRow]:
    return read_responses(path)


def _message(row: ResponseRow) -> Message:
    assert not isinstance(row.prompt, str)
    return row.prompt[-1]


def _answer(lm: Any, prompts: list[dict[str, Any]], name: str, seed: int) -> list[ResponseRow]:
    """A model's responses to the prompts, as rows of responses.jsonl."""
    answers = accord.sample(
        lm,
        [{"prompt": row["prompt"]} for row in prompts],
        num_responses=RESPONSES,
        max_new_tokens=MAX_TOKENS,
        seed=seed,
        batch_size=1024,
    )
    return [
        ResponseRow(
            answer.prompt,
            row["meta"],
            name,
            {"temperature": 1.0, "max_new_tokens": MAX_TOKENS, "seed": seed},
            tuple(
                Response(answer.prompt, text, name, logp=logp, finished=finished)
                for text, logp, finished in zip(
                    answer.responses, answer.logps, answer.finished, strict=True
                )
            ),
        )
        for answer, row in zip(answers, prompts, strict=True)
    ]


def run_scores(plan: Plan, rows: Sequence[ResponseRow]) -> dict[str, list[list[float]]]:
    """The true reward and the reward that the run was trained with, [prompts][responses]."""
    true = [[true_reward(r.prompt, a.text) for a in r.responses] for r in rows]
    return {
        "true": _rounded(true),
        "proxy": _rounded(proxy_scores(plan.kind, plan.strength, rows, true)),
    }


def proxy_scores(
    kind: str, strength: float, rows: Sequence[ResponseRow], true: Nested
) -> list[list[float]]:
    """The reward that a run was trained with, from the true one, [prompts][responses]."""
    return [
        [
            score + flaw_bonus(kind, strength, row.prompt, response.text)
            for response, score in zip(row.responses, scores, strict=True)
        ]
        for row, scores in zip(rows, true, strict=True)
    ]


def _rounded(scores: Nested) -> list[list[float]]:
    return [[round(score, 4) for score in row] for row in scores]
