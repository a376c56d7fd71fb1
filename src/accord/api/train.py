"""Train from Python: `train` runs a method to its end, `steps` puts the loop in your hands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from accord.api.models import Model, as_lora, model_values, starting_model
from accord.api.rewards import RewardLike, combine_rewards
from accord.api.run import SHOWN, Run, Steps, check_resumable
from accord.compare.rewards.reward import CombinedReward
from accord.data.memory import memory_name, read_memory_rows
from accord.errors import SettingsError
from accord.interrupts import deferred_interrupts
from accord.learn.loop.datasets import EVAL, read_datasets
from accord.learn.loop.in_memory import InMemory
from accord.learn.offline.dataset_rows import dataset_kinds
from accord.learn.offline.dpo import pair_objective
from accord.learn.offline.methods import METHODS, Method
from accord.learn.offline.reference import check_same_tokenizer
from accord.learn.online.episodes import Episodes
from accord.learn.online.methods import (
    ONLINE,
    OnlineMethod,
    PolicyTerms,
    SurrogateLoss,
    Targets,
)
from accord.learn.online.train import DATASET_KINDS
from accord.lm.in_memory import wrap_model
from accord.lm.model import LanguageModel
from accord.objectives.pair_terms import PairLossFunction
from accord.settings.reading.load import build
from accord.settings.stage_kinds import find_method, settings_class
from accord.settings.training import LoraSettings

Rows = str | Path | Iterable[Any]
"""A path or hub name, or rows: dicts, records, a `datasets.Dataset`, a DataFrame."""

TargetsFunction = Callable[[Episodes, Any, float], Targets]
SurrogateFunction = Callable[[PolicyTerms, Any], SurrogateLoss]

DATASETS = ("dataset", "eval_dataset", "reference_dataset", "ptx_dataset")


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
    loss: PairLossFunction | None = None,
    targets: TargetsFunction | None = None,
    surrogate: SurrogateFunction | None = None,
    **settings: Any,
) -> Steps:
    """The training loop of a method as an iterator of steps (online: iterations).

    The arguments are those of `train`.
    """
    method = find_method(method)
    lm, values = model_values(model, tokenizer, identify=output_dir is not None)
    values |= {"output_dir": str(output_dir or "in memory"), **settings}
    if lora is not None:
        if lm is not None and lm.is_peft:
            raise SettingsError(
                f"{lm.name} has an adapter already, and training continues it. Leave `lora` out; "
                f"or save the run, and pass the folder."
            )
        adapters = as_lora(lora)
        values["lora"] = None if adapters is None else adapters.model_dump()
    rows: dict[str, Any] = {}
    for key, given in {"dataset": dataset, **{k: settings.get(k) for k in DATASETS[1:]}}.items():
        if given is None:
            continue
        if key == EVAL and isinstance(given, Mapping):
            rows[key] = {name: _in_memory(each) for name, each in given.items()}
            values[key] = {
                name: _describe_rows(each, digest=output_dir is not None)
                for name, each in rows[key].items()
            }
        else:
            rows[key] = _in_memory(given)
            values[key] = _describe_rows(rows[key], digest=output_dir is not None)
    combined = None
    if reward is not None:
        combined, values["rewards"] = _reward_values(method, reward, settings)
    reference = None
    if ref_model is not None:
        reference = None if isinstance(ref_model, str | Path) else wrap_model(ref_model, tokenizer)
        values["ref_model"] = str(ref_model) if reference is None else f"{reference.name} in memory"
    checked: Any = build(settings_class("train", method), values, where=f"accord.train({method!r})")
    if output_dir is not None:
        check_resumable(Path(output_dir))
    custom = _custom_method(method, loss, targets, surrogate)
    kinds = DATASET_KINDS if method in ONLINE else dataset_kinds(METHODS[method])
    read = read_datasets(checked, kinds, InMemory(model=lm, datasets=rows))
    start = starting_model(lm, checked, scalar=method in METHODS and METHODS[method].scalar)
    if reference is not None:
        check_reference(start, reference)
    memory = InMemory(
        model=start,
        on_disk=lm is None,
        ref_model=reference,
        reward=combined,
        datasets=rows,
        method=custom,
        read=read,
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
    loss: PairLossFunction | None = None,
    targets: TargetsFunction | None = None,
    surrogate: SurrogateFunction | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a model by a method (`sft`, `reward`, `dpo`, `ppo`, …) and return the run.

    `model` is a path or hub name, what `load_model` returns, or a loaded transformers or peft
    model (`tokenizer` goes with it); one in memory is trained in place. `dataset`, and
    `eval_dataset` among the settings, are paths or rows. Online methods take `reward`: a Python
    function, a reward model, or a list of these. `settings` are those of `accord train METHOD`
    (docs/settings.md). A method of your own is a function: with `dpo` a `loss(terms, settings)` of
    pairs (`accord.objectives.PairTerms`), with an online method `targets(episodes, settings, beta)`
    or `surrogate(terms, settings)` (`accord.learn.online.methods`).

    With `output_dir` the run writes what the command writes, and resumes from its last checkpoint;
    without, nothing is written. The first Ctrl-C ends the run after the present step.

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
        loss=loss,
        targets=targets,
        surrogate=surrogate,
        **settings,
    )
    with loop, deferred_interrupts() as interrupted, Progress(disable=not progress) as bar:
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
            if interrupted():  # the loop is closed, which writes a checkpoint to output_dir
                raise KeyboardInterrupt
    return loop.result()


def _custom_method(
    name: str,
    loss: PairLossFunction | None,
    targets: TargetsFunction | None,
    surrogate: SurrogateFunction | None,
) -> Method[Any] | OnlineMethod[Any] | None:
    """The named method with functions of the caller's in place of its own."""
    if loss is not None and name != "dpo":
        raise SettingsError(f"`loss` is a loss of pairs, for `dpo`, and not for `{name}`.")
    if (targets or surrogate) and name not in ONLINE:
        raise SettingsError(
            f"`targets` and `surrogate` are parts of online methods, and `{name}` is offline."
        )
    if loss is not None:
        weighted = [(1.0, loss)]
        return replace(
            METHODS[name],
            objective=lambda lm, settings, groups, reference: pair_objective(
                lm, settings, groups, reference, weighted
            ),
        )
    if targets is None and surrogate is None:
        return None
    method = ONLINE[name]
    return replace(
        method,
        targets=targets or method.targets,
        surrogate=surrogate or method.surrogate,
    )


def _in_memory(rows: Rows) -> Any:
    """A path as text, or rows that can be read more than once."""
    if isinstance(rows, str | Path):
        return str(rows)
    return list(rows) if isinstance(rows, Iterator) else rows


def _describe_rows(rows: Any, *, digest: bool) -> str:
    """The setting that stands for a data set: its path, or the type of rows in memory, and with
    `digest` a digest of them."""
    if isinstance(rows, str):
        return rows
    described = f"{memory_name(rows)} in memory"
    return f"{described}, sha256 {_digest(rows)}" if digest else described


def _digest(rows: Iterable[Any]) -> str:
    """A digest of rows in memory: a resumed run must be passed the same ones."""
    digest = hashlib.sha256()
    for row in read_memory_rows(rows):
        digest.update(repr(row.values).encode("utf-8", "replace"))
    return digest.hexdigest()[:12]


def _reward_values(
    method: str, reward: RewardLike, settings: Mapping[str, Any]
) -> tuple[CombinedReward, list[dict[str, Any]]]:
    """The reward, and the settings that describe it. Raises SettingsError for a method without."""
    if method not in ONLINE:
        raise SettingsError(f"`{method}` learns from rows and takes no `reward`. Leave it out.")
    fields = settings_class("train", method).model_fields
    clip = settings.get("reward_clip", fields["reward_clip"].default)
    combined = combine_rewards(reward, device=settings.get("device", "auto"), clip=clip)
    names = [source.name for source in combined.sources]
    weights = [source.weight for source in combined.sources]
    return combined, [
        {"kind": "python", "function": f"in_memory:{name}", "name": name, "weight": weight}
        for name, weight in zip(names, weights, strict=True)
    ]


def check_reference(lm: LanguageModel, reference: LanguageModel) -> None:
    """Raise SettingsError where a reference in memory would be trained with the model, or has
    another tokenizer."""
    trained = {p.data_ptr() for p in lm.model.parameters()}
    if any(p.data_ptr() in trained for p in reference.model.parameters()):
        raise SettingsError(
            "`ref_model` has the weights of `model`, and would change with them. Leave it out: the "
            "reference is then the model as it is at the start."
        )
    check_same_tokenizer(lm, reference)
