"""What the experiments of the pages in docs/learn share. An experiment is a script such as

    from experiment import Experiment, rank, true_reward, world_prompts
    import accord

    experiment = Experiment(__file__, __doc__)          # reads --quick, --output-dir, --demo
    sft = experiment.shared("sft")                      # a model's folder, trained at first use
    prompts = world_prompts(experiment.shared("world"), "test", experiment.size(200, 8))
    answers = accord.sample(sft, prompts, num_responses=4, max_new_tokens=64, reward=true_reward)
    rankings = rank(answers, noise=0.1, seed=0)         # rows for dpo, reward, …
    dpo = experiment.train("dpo", model=sft, dataset=rankings, name="dpo-0.3", beta=0.3,
                           max_steps=experiment.size(60, 2), learning_rate=3e-4, max_length=256,
                           per_device_train_batch_size=32)      # an accord.Run, kept by its name

    def draw(axes, colours):
        axes.plot([0, 1], [0, 1], color=colours[0], label="DPO")
        axes.set(xlabel="KL from SFT (nats)", ylabel="true reward")
        axes.legend()

    experiment.save(draw, ["beta", "true reward"], [["0.3", "0.71 ± 0.02"]])

`save` writes figures/NAME.svg, NAME-dark.svg and the fragment NAME.md. The shared models are the
first stages of `accord demo`, in --demo (runs/demo): a demo that was run before is used as it is,
and what is not finished is trained. `shared(stage)` takes "world", "base", "sft", "responses",
"preferences" and "reward"; another `seed` has a folder of its own. --quick trains everything for
two steps on a few rows of a tiny world and writes its figures to --output-dir/figures: it shows
that the script runs. Trained models stay in --output-dir (runs/learn/NAME), so that a script that
is cut off goes on where it was; delete the folder to train again after a change.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

import accord
from accord.api.answers import read_prompts
from accord.compare.rewards.models import encode_for_reward
from accord.lm.forward import response_kl
from accord.lm.model import LanguageModel
from accord.lm.packing import forward_batches, pack
from accord.pipeline import run_recipe, run_stage
from accord.records import PromptOnly, prompt_json
from accord.report.figures.drawing import PALETTE, STYLE
from accord.settings.recipe import Recipe, load_recipe, single_stage
from accord.settings.rewards import FlawSettings
from accord.world.annotators import perceived_reward, simulated_preference
from accord.world.reward import true_reward as reward_of

FIGURES = Path(__file__).resolve().parent.parent / "figures"
DARK = {
    **dict.fromkeys(("text.color", "axes.titlecolor"), "#e6e8ee"),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), "#aab2c0"),
    "axes.edgecolor": "#565e6c",
    "grid.color": "#343a46",
}
DARK_PALETTE = ("#56b4e9", "#f08a3c", "#2fc79a", "#e39ac4", "#f0c04a", "#8fc9ee", "#a593e0", "#aaa")
TINY = {
    "world": {"demonstrations": 64, "corpus": 64, "train_prompts": 24, "test_prompts": 16}
    | {"vocab_size": 700, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{key: {"max_steps": 2} for key in ("base", "sft", "reward")},
    "responses": {"max_new_tokens": 12, "temperature": 4},
}


class Experiment:
    """The command line of a page's experiment, its shared models, and what it writes."""

    def __init__(self, script: str, description: str | None) -> None:
        self.name = Path(script).stem
        parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--quick", action="store_true", help="a few rows, two steps: a test")
        parser.add_argument("--output-dir", type=Path, default=Path("runs/learn") / self.name)
        parser.add_argument("--demo", type=Path, help="a folder of `accord demo` (runs/demo)")
        parsed = parser.parse_args()
        self.quick: bool = parsed.quick
        self.output_dir: Path = parsed.output_dir
        self.demo: Path = parsed.demo or (
            self.output_dir / "demo" if self.quick else Path("runs/demo")
        )

    def size(self, full: int, quick: int) -> int:
        """A number of rows or steps: `quick` under --quick."""
        return quick if self.quick else full

    def shared(self, stage: str, *, seed: int = 0) -> Path:
        """What the demo's stage of that name gives: a model's folder, or store.db of the rankings,
        or responses.jsonl, or the world's folder. It and what it needs run if they have not."""
        folder = f"{self.demo}-seed-{seed}" if seed else str(self.demo)
        tiny = [f"{s}.{k}={v}" for s, table in TINY.items() for k, v in table.items()]
        values = [f"output_dir={json.dumps(folder)}", f"seed={seed}", *(tiny if self.quick else [])]
        recipe = load_recipe("demo", values)
        names = [plan.name for plan in recipe.stages]
        run_recipe(Recipe(folder, seed, recipe.stages[: names.index(stage) + 1]))
        results = {"world": "", "responses": "responses.jsonl", "preferences": "store.db"}
        return Path(folder, stage, results.get(stage, "model"))

    def train(self, method: str, *, name: str, **settings: Any) -> accord.Run:
        """As accord.train, with progress off, in --output-dir/NAME. A run of that name that is
        finished is read, not trained again."""
        folder = self.output_dir / ("quick-" + name if self.quick else name)
        metrics = folder / "metrics.jsonl"
        if (folder / "model").is_dir() and metrics.is_file():
            rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
            model = accord.load_model(folder / "model", reward=method == "reward")
            values = [f"output_dir={json.dumps(str(folder))}", "model=stored", "dataset=stored"]
            stored: Any = single_stage("train", method, overrides=values).settings
            return accord.Run(method, model, rows, stored, folder)
        return accord.train(method, output_dir=folder, progress=False, **settings)

    def stage(self, kind: str, *, name: str, method: str | None = None, **settings: Any) -> Path:
        """Any stage of a recipe (`audit`, `iterate`, `redteam`, …) in --output-dir/NAME, which it
        returns; a finished one with the same settings is not run again."""
        folder = self.output_dir / ("quick-" + name if self.quick else name)
        values = [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
        values.append(f"output_dir={json.dumps(str(folder))}")
        run_stage(single_stage(kind, method, overrides=values))
        return folder

    def save(
        self,
        draw: Callable[..., None],
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        note: str = "",
        panels: int = 1,
        size: tuple[float, float] = (5.6, 3.4),
    ) -> None:
        """Draw the figure in light and dark, and write the table with its command and machine.

        `draw(axes, colours)` draws; with several `panels` (side by side) `axes` is a list. `note`
        is a sentence below the table, such as what an interval is.
        """
        folder = self.output_dir / "figures" if self.quick else FIGURES
        folder.mkdir(parents=True, exist_ok=True)
        # White, and not without a background: GitHub shows the light figure in its dark theme too.
        styles = {"": ({"figure.facecolor": "white"}, PALETTE), "-dark": (DARK, DARK_PALETTE)}
        for suffix, (changes, colours) in styles.items():
            with rc_context({**STYLE, **changes, "text.parse_math": True}):
                figure = Figure(figsize=size, layout="constrained")
                axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
                draw(axes if panels > 1 else axes[0], colours)
                path = folder / f"{self.name}{suffix}.svg"
                figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        cells = (header, ["---"] * len(header), *rows)
        table = ["| " + " | ".join(row) + " |" for row in cells]
        line = f"`python docs/learn/experiments/{self.name}.py`, {machine()}, {today()}."
        text = "\n".join([*table, "", " ".join(filter(None, (note, line)))])
        (folder / f"{self.name}.md").write_text(text + "\n", encoding="utf-8")
        print(text)


def world_prompts(world: Path, split: str, count: int) -> list[PromptOnly]:
    """The first prompts of the world's `train` or `test` file."""
    return read_prompts(world / f"{split}_prompts.jsonl")[:count]


def true_reward(prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """The world's true reward, in [0, 1], as a function for `reward=`."""
    records = read_prompts(list(prompts))
    return [reward_of(p.prompt, r) for p, r in zip(records, responses, strict=True)]


def kl_by_prompt(
    model: LanguageModel, reference: LanguageModel, answers: accord.Answers
) -> list[list[float]]:
    """KL from the reference in nats, along each answer that the model sampled, by prompt."""
    groups = [
        encode_for_reward(model, row.prompt, text, ended)
        for row in answers
        for text, ended in zip(row.responses, row.finished, strict=True)
    ]
    values: list[float] = []
    for indices in forward_batches([group.num_tokens for group in groups], 64):
        batch = pack([groups[i] for i in indices], model.device)
        values += response_kl(model, reference, batch).tolist()
    left = iter(values)
    return [[next(left) for _ in row.responses] for row in answers]


def rank(
    answers: accord.Answers, *, noise: float = 0.1, seed: int = 0, **flaws: float
) -> list[dict[str, Any]]:
    """Rankings of each prompt's responses by simulated annotators, as rows for accord.train.

    `flaws` are those of `accord.settings.rewards.FlawSettings`: length=0.2 adds 0.2 for 10 words.
    """
    rng, table = random.Random(seed), FlawSettings(**flaws)
    rows = []
    for answer in answers:
        seen = [perceived_reward(answer.prompt, text, table) for text in answer.responses]
        ranks = list(simulated_preference(seen, noise=noise, rng=rng))
        prompt = prompt_json(answer.prompt)
        rows.append({"prompt": prompt, "responses": list(answer.responses), "ranks": ranks})
    return rows


def machine() -> str:
    """This machine in words, such as "2 cores of an AMD EPYC"."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    maker = "an AMD EPYC" if "EPYC" in text else "an Intel Xeon" if "Xeon" in text else "a CPU"
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    return f"{threads} core{'s' if threads > 1 else ''} of {maker}"


def today() -> str:
    return datetime.date.today().isoformat()
