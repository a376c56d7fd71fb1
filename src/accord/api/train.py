"""Train from Python: `train` runs a method to its end, `steps` puts the loop in your hands."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.progress import Progress

from accord.api.models import Model, model_values, starting_model
from accord.api.rewards import RewardLike, combine_rewards
from accord.compare.rewards.reward import CombinedReward
from accord.data.memory import memory_name, read_memory_rows
from accord.errors import SettingsError
from accord.learn.loop.fit import StepResult
from accord.learn.loop.in_memory import InMemory
from accord.learn.loop.stage import model_card
from accord.learn.offline.methods import METHODS
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.lm.in_memory import wrap_model
from accord.lm.load import save_model
from accord.lm.model import LanguageModel
from accord.runs import record_run, write_json_atomic
from accord.settings.reading.load import build
from accord.settings.stage_kinds import find_method, settings_class
from accord.settings.training import LoraSettings, TrainSettings

Rows = str | Path | Iterable[Any]
"""A path or hub name, or rows: dicts, records, a `datasets.Dataset`, a DataFrame."""

DATASETS = ("dataset", "eval_dataset", "reference_dataset", "ptx_dataset")
SHOWN = ("loss", "rewards/accuracies", "objective/scores", "objective/kl")


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training run: the trained model, a row of metrics a step, and the settings.

    `metrics` has the keys of metrics.jsonl, which are TRL's names, and `step`. `output_dir` is
    None for a run in memory.
    """

    method: str
    model: LanguageModel
    metrics: list[dict[str, float]]
    settings: TrainSettings
    output_dir: Path | None = None

    def save(self, folder: str | Path) -> Path:
        """Write the model to `folder/model`, which loads in transformers or peft, with the
        metrics and settings beside it; returns the model's folder.

        Raises SettingsError where the folder holds a model, StorageError where it can't be
        written.
        """
        folder = Path(folder)
        _check_unused(folder)
        folder.mkdir(parents=True, exist_ok=True)
        card = model_card(self.model, self.method, self.settings)
        save_model(self.model, folder / "model", card=card)
        lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
        (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
        write_json_atomic(folder / "settings.json", self.settings.model_dump(mode="json"))
        return folder / "model"

    def __repr__(self) -> str:
        last = self.metrics[-1] if self.metrics else {}
        shown = ", ".join(f"{name} {last[name]:.4g}" for name in SHOWN if name in last)
        where = "in memory" if self.output_dir is None else str(self.output_dir)
        return f"Run({self.method}, {len(self.metrics)} steps, {shown or 'no metrics'}, {where})"


class Steps(Iterator[StepResult]):
    """A training loop in your hands: each step it yields has been taken.

    `model` is the model in training. Closing the iterator (or leaving a `with` block) ends the
    run: with `output_dir` a checkpoint is written, and the same call resumes from it.
    """

    def __init__(
        self, method: str, model: LanguageModel, settings: TrainSettings, memory: InMemory
    ) -> None:
        self.method, self.model, self.settings = method, model, settings
        self.metrics: list[dict[str, float]] = []
        self._stack = ExitStack()
        in_memory = not memory.save_model
        if in_memory:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="accord-"))
            self.settings = settings.model_copy(update={"output_dir": folder, "save_steps": 10**9})
        else:
            seed = settings.seed
            self._stack.enter_context(record_run(settings.output_dir, settings=settings, seed=seed))
        train: Any = train_online if method in ONLINE else train_offline
        self._steps: Generator[StepResult, None, LanguageModel] = train(
            method, self.settings, memory
        )
        self.output_dir = None if in_memory else Path(settings.output_dir)

    def __next__(self) -> StepResult:
        try:
            result = next(self._steps)
        except StopIteration as end:
            self.model = end.value or self.model
            self._stack.close()
            raise
        except BaseException as error:
            self._fail(error)
        self.metrics.append({"step": result.step, **result.metrics})
        return result

    def _fail(self, error: BaseException) -> NoReturn:
        self._stack.__exit__(type(error), error, error.__traceback__)
        raise error

    def close(self) -> None:
        """End the run after the present step."""
        self._steps.close()
        self._stack.close()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> Run:
        """The steps taken so far as a Run."""
        return Run(self.method, self.model, self.metrics, self.settings, self.output_dir)


def steps(
    method: str,
    *,
    model: Model,
    dataset: Rows,
    output_dir: str | Path | None = None,
    tokenizer: Any = None,
    reward: RewardLike = None,
    ref_model: Model | None = None,
    lora: LoraSettings | Mapping[str, Any] | bool | None = None,
    **settings: Any,
) -> Steps:
    """The training loop of a method as an iterator of steps (online: iterations).

    The arguments are those of `train`.
    """
    method = find_method(method)
    lm, values = model_values(model, tokenizer)
    values |= {"output_dir": str(output_dir or "in memory"), **settings}
    if lora is not None:
        values["lora"] = lora.model_dump() if isinstance(lora, LoraSettings) else lora
    rows: dict[str, Iterable[Any]] = {}
    for key, given in {"dataset": dataset, **{k: settings.get(k) for k in DATASETS[1:]}}.items():
        if given is None:
            continue
        if not isinstance(given, str | Path):
            rows[key] = list(given) if isinstance(given, Iterator) else given
            values[key] = f"{memory_name(rows[key])} in memory, sha256 {_digest(rows[key])}"
        else:
            values[key] = str(given)
    combined = None
    if reward is not None:
        combined, values["rewards"] = _reward_values(method, reward, settings)
    reference = None
    if ref_model is not None:
        reference = None if isinstance(ref_model, str | Path) else wrap_model(ref_model)
        values["ref_model"] = str(ref_model) if reference is None else f"{reference.name} in memory"
    checked: Any = build(settings_class("train", method), values, where=f"accord.train({method!r})")
    if output_dir is not None:
        _check_unused(Path(output_dir))
    start = starting_model(lm, checked, scalar=method in METHODS and METHODS[method].scalar)
    memory = InMemory(
        model=start,
        on_disk=lm is None,
        ref_model=reference,
        reward=combined,
        datasets=rows,
        save_model=output_dir is not None,
    )
    return Steps(method, start, checked, memory)


def train(
    method: str,
    *,
    model: Model,
    dataset: Rows,
    output_dir: str | Path | None = None,
    tokenizer: Any = None,
    reward: RewardLike = None,
    ref_model: Model | None = None,
    lora: LoraSettings | Mapping[str, Any] | bool | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a model by a method (`sft`, `reward`, `dpo`, `ppo`, …) and return the run.

    `model` is a path or hub name, what `load_model` returns, or a loaded transformers or peft
    model (`tokenizer` goes with it); one in memory is trained in place. `dataset`, and
    `eval_dataset` among the settings, are paths or rows. Online methods take `reward`: a Python
    function, a reward model, or a list of these. `settings` are those of `accord train METHOD`
    (docs/settings.md). With `output_dir` the run writes what the command does and resumes from
    its last checkpoint; without, nothing is written.

    Raises SettingsError, DataError, ModelError or RewardError before the first step where the
    request is wrong, NotFiniteError where the loss is not finite.
    """
    loop = steps(
        method,
        model=model,
        dataset=dataset,
        output_dir=output_dir,
        tokenizer=tokenizer,
        reward=reward,
        ref_model=ref_model,
        lora=lora,
        **settings,
    )
    with loop, Progress(disable=not progress) as bar:
        task = bar.add_task(method, total=None)
        for step in loop:
            shown = "  ".join(
                f"{name.split('/')[-1]} {step.metrics[name]:.3f}"
                for name in SHOWN
                if name in step.metrics
            )
            bar.update(
                task, completed=step.step, total=step.total, description=f"{method}  {shown}"
            )
    return loop.run()


def _digest(rows: Iterable[Any]) -> str:
    """A digest of rows in memory: a resumed run must be passed the same ones."""
    digest = hashlib.sha256()
    for row in read_memory_rows(rows):
        digest.update(repr(row.values).encode("utf-8", "replace"))
    return digest.hexdigest()[:12]


def _reward_values(
    method: str, reward: RewardLike, settings: Mapping[str, Any]
) -> tuple[CombinedReward, list[dict[str, str]]]:
    """The reward, and the settings that describe it. Raises SettingsError for a method without."""
    if method not in ONLINE:
        raise SettingsError(f"`{method}` learns from rows and takes no `reward`. Leave it out.")
    fields = settings_class("train", method).model_fields
    clip = settings.get("reward_clip", fields["reward_clip"].default)
    combined = combine_rewards(reward, device=settings.get("device", "auto"), clip=clip)
    names = [source.name for source in combined.sources]
    return combined, [{"kind": "python", "function": f"in_memory:{name}"} for name in names]


def _check_unused(folder: Path) -> None:
    if (folder / "model").exists():
        raise SettingsError(
            f"{folder} holds a finished run ({folder / 'model'}). Name another folder, or remove "
            f"it to train again."
        )
