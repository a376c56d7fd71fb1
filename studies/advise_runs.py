"""What each option is truly worth on the embedded world: data with known faults, and tiny runs.

Each result is the true reward of the answers to the same unseen prompts, [prompts][answers], in a
file named by what was run, so that cases share runs and a study resumes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector_flaws import perceived
from detector_runs import MAX_TOKENS, Workshop

import accord
from accord.data.write import write_jsonl
from accord.runs import write_json_atomic
from accord.world.reward import true_reward

ANSWERS, CANDIDATES = 2, 8
"""Answers per unseen prompt; and how many best-of-N chooses from."""
PAIR_STEPS, BATCH, ONLINE_STEPS = (8, 60), 16, 12
"""Offline runs take two passes over their rows, within these bounds of steps."""
FLAW = ("length", 0.4)
"""What the flawed judge adds to the true reward: 0.4 per ten words."""

Row = dict[str, Any]
Scores = list[list[float]]
Rule = Callable[[list[Any], list[str]], list[float]]


@dataclass(frozen=True, slots=True)
class Data:
    """Preferences to learn from: `count` pairs (or labels) with a share of `flips`, a tenth of the
    pairs judged twice. `author` is the model that answered: `sft`, or `base` (off-policy)."""

    count: int
    flips: float = 0.1
    author: str = "sft"
    labels: bool = False

    @property
    def name(self) -> str:
        kind = "labels" if self.labels else "pairs"
        return f"{kind}-{self.count}-{round(100 * self.flips)}-{self.author}"


class Truth:
    """One seed: a supervised model of the workshop, and the true reward of every option."""

    def __init__(self, workshop: Workshop, seed: int) -> None:
        self.workshop, self.seed = workshop, seed
        self.folder = workshop.folder / f"advise-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        workshop.prepare(seed)

    def model(self, name: str) -> Path:
        """The folder of `base`, `sft`, or of `aligned`: GRPO with the true reward."""
        if name == "base":
            return self.workshop.folder / "base/model"
        if name == "sft":
            return self.workshop.start(self.seed) / "model"
        self.online("sft", "true")
        return self.folder / "grpo-sft-true/model"

    def stay(self, start: str) -> Scores:
        return [
            row[:ANSWERS] for row in self._cached(f"stay-{start}", self._answers(start))["true"]
        ]

    def _answers(self, start: str) -> Callable[[], Any]:
        """A model's answers to the unseen prompts, with their true reward."""

        def run() -> dict[str, Any]:
            texts = self._sample(self.model(start), self.workshop.prompts(), CANDIDATES)
            return {"texts": texts, "true": self._true(texts)}

        return run

    def best_of(self, start: str, reward: str | Data) -> Scores:
        """The best of the candidates by a reward: of the world, flawed, or trained on pairs."""
        found = self._cached(f"stay-{start}", self._answers(start))

        def run() -> Scores:
            prompts = [_content(row) for row in self.workshop.prompts()]
            flat = [text for row in found["texts"] for text in row]
            asked = [p for p in prompts for _ in range(CANDIDATES)]
            scores = accord.score(self.reward(reward), asked, flat)
            best = []
            for at, row in enumerate(found["true"]):
                of = scores[at * CANDIDATES : (at + 1) * CANDIDATES]
                best.append([row[max(range(CANDIDATES), key=of.__getitem__)]])
            return best

        return self._cached(f"best-of-{start}-{_reward_name(reward)}", run)

    def offline(self, method: str, start: str, data: Data | None) -> Scores:
        """SFT, DPO, KTO or ORPO from a model; without data, SFT on the demonstrations."""
        name = f"{method}-{start}-{'demonstrations' if data is None else data.name}"

        def run() -> Scores:
            trained = self._train(method, start, data)
            return self._true(self._sample(trained.model, self.workshop.prompts(), ANSWERS))

        return self._cached(name, run)

    def online(self, start: str, reward: str | Data) -> Scores:
        """GRPO from a model against a reward."""
        name = f"grpo-{start}-{_reward_name(reward)}"

        def run() -> Scores:
            trained = accord.train(
                "grpo",
                model=str(self.model(start)),
                dataset=str(self.workshop.folder / "world/train_prompts.jsonl"),
                reward=self.reward(reward),
                max_steps=ONLINE_STEPS,
                per_device_train_batch_size=48,
                num_generations=4,
                num_mini_batches=2,
                max_new_tokens=MAX_TOKENS,
                max_length=256,
                learning_rate=1e-3,
                beta=0.05,
                seed=self.seed,
                output_dir=str(self.folder / name),
                progress=False,
            )
            return self._true(self._sample(trained.model, self.workshop.prompts(), ANSWERS))

        return self._cached(name, run)

    def reward(self, reward: str | Data) -> Any:
        """A reward by its name, or a reward model trained on pairs."""
        if isinstance(reward, str):
            return rule(reward)
        folder = self.folder / f"reward-{reward.name}"
        if not (folder / "model").is_dir():
            self._train("reward", "sft", reward, output_dir=str(folder))
        return accord.load_model(folder / "model", reward=True, trainable=False)

    def _train(self, method: str, start: str, data: Data | None, **more: Any) -> Any:
        rows = self.rows(data) if data else self.demonstrations()
        steps = min(PAIR_STEPS[1], max(PAIR_STEPS[0], 2 * len(rows) // BATCH))
        return accord.train(
            method,
            model=str(self.model(start)),
            dataset=rows,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            warmup_ratio=0.1,
            max_length=256,
            seed=self.seed,
            progress=False,
            **_SETTINGS[method],
            **more,
        )

    def demonstrations(self, count: int = 2000) -> list[Row]:
        """Demonstrations as rows; the supervised models have learned from all of them."""
        path = self.workshop.folder / "world/demonstrations.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        return [json.loads(line) for line in lines]

    def rows(self, data: Data) -> list[Row]:
        """The rows of preferences, of which some are wrong, and a tenth of the pairs judged twice.
        What a label says does not depend on how many follow it."""
        rng = random.Random(f"{self.seed} {data.author} {data.flips} {data.labels}")
        rows: list[Row] = []
        for prompt, first, second in self._duels(data.author):
            twice = rng.random() < 0.1
            for _ in range(2 if twice else 1):
                rows += _judged(prompt, first, second, rng.random() < data.flips, data.labels)
            if len(rows) >= data.count:
                break
        return rows[: data.count]

    def _duels(self, author: str) -> list[tuple[Any, str, str]]:
        """Two answers each to prompts of the training set that differ in true reward, with the
        prompts in turn: pair after pair of the same prompt comes late."""
        found = self._pool(author)
        duels = []
        for first, second in ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2)):
            for row in found:
                texts = row["texts"]
                if first < len(texts) > second and texts[first] != texts[second]:
                    duels.append((row["prompt"], texts[first], texts[second]))
        return duels

    def _pool(self, author: str) -> list[Row]:
        def run() -> list[Row]:
            prompts = self.workshop.train_prompts(900)
            texts = self._sample(self.model(author), prompts, 4)
            return [
                {"prompt": p["prompt"], "texts": t} for p, t in zip(prompts, texts, strict=True)
            ]

        found: list[Row] = self._cached(f"pool-{author}", run)
        return found

    def responses(self, start: str) -> Path:
        """A model's answers to training prompts as a file of `accord sample`'s form."""
        path = self.folder / f"responses-{start}.jsonl"
        if not path.is_file():
            rows = [
                {
                    "prompt": row["prompt"],
                    "meta": {},
                    "model": start,
                    "settings": {},
                    "responses": [{"text": text} for text in row["texts"]],
                }
                for row in self._pool(start)[:100]
            ]
            write_jsonl(path, rows)
        return path

    def _sample(self, model: Any, prompts: Sequence[Row], count: int) -> list[list[str]]:
        lm = accord.load_model(model, trainable=False) if isinstance(model, Path) else model
        answers = accord.sample(
            lm,
            [{"prompt": row["prompt"]} for row in prompts],
            num_responses=count,
            max_new_tokens=MAX_TOKENS,
            seed=self.seed,
            batch_size=1024,
        )
        return [list(answer.responses) for answer in answers]

    def _true(self, texts: Sequence[Sequence[str]]) -> Scores:
        prompts = self.workshop.prompts()
        return [
            [round(true_reward(_content(row), text), 4) for text in of]
            for row, of in zip(prompts, texts, strict=True)
        ]

    def _cached(self, name: str, run: Callable[[], Any]) -> Any:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_json_atomic(path, run())
        return json.loads(path.read_text(encoding="utf-8"))


_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "sft": {"learning_rate": 1e-3},
    "reward": {"learning_rate": 1e-3},
    "dpo": {"learning_rate": 3e-4, "beta": 0.3},
    "kto": {"learning_rate": 5e-4, "beta": 0.3},
    "orpo": {"learning_rate": 1e-3, "beta": 0.5},
}


def rule(name: str) -> Rule:
    """A reward of the world by its name: `true`, `flawed` (longer is better), or `coin`."""

    def score(prompts: list[Any], responses: list[str]) -> list[float]:
        return [_score(name, _request(p), r) for p, r in zip(prompts, responses, strict=True)]

    return score


def true_rule(prompts: list[Any], responses: list[str]) -> list[float]:
    return rule("true")(prompts, responses)


def flawed_rule(prompts: list[Any], responses: list[str]) -> list[float]:
    return rule("flawed")(prompts, responses)


def coin_rule(prompts: list[Any], responses: list[str]) -> list[float]:
    return rule("coin")(prompts, responses)


def _score(name: str, prompt: str, response: str) -> float:
    if name == "coin":
        return random.Random(f"{prompt}\n{response}").random()
    if name == "flawed":
        return perceived(*FLAW, prompt, response)
    return true_reward(prompt, response)


def _judged(prompt: Any, first: str, second: str, flipped: bool, labels: bool) -> list[Row]:
    request = _content({"prompt": prompt})
    values = true_reward(request, first), true_reward(request, second)
    better = (values[0] >= values[1]) != flipped
    chosen, rejected = (first, second) if better else (second, first)
    if labels:
        return [
            {"prompt": prompt, "completion": chosen, "label": True},
            {"prompt": prompt, "completion": rejected, "label": False},
        ]
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]


def _content(row: Row) -> str:
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _request(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _reward_name(reward: str | Data) -> str:
    return reward if isinstance(reward, str) else f"model-{reward.name}"
