"""The recipe of an advice, ready for `accord run`; the starters of `accord init` where they fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent

import yaml

from accord.errors import AccordError, RequestError
from accord.pipeline.advise.advice import Advice
from accord.pipeline.advise.rules import Choice
from accord.settings.advise import AdviseSettings
from accord.settings.recipe import load_recipe
from accord.settings.starters import Start, starter_recipe

DEFAULT_N = 8
_UNNAMED = "rewards that are no model"
"""What stands for them in a starter until they replace it."""
NO_RECIPE: tuple[Choice, ...] = ("stay",)


_DATA: Mapping[Choice, Sequence[str]] = {
    "sft": ("demonstrations",),
    "kto": ("labels",),
    **dict.fromkeys(("dpo", "orpo", "reward+grpo", "reward+best-of-n"), ("pairs",)),
    **dict.fromkeys(
        ("grpo", "best-of-n", "annotate", "revise"),
        ("prompts", "pairs", "labels", "demonstrations"),
    ),
}
"""The kinds of data that an advised method reads, the best first."""


def write_recipe(advice: Advice, settings: AdviseSettings, path: Path) -> str:
    """Write the recipe and check that it loads; returns what to do next.

    Raises RequestError where there is nothing to run, or the folder is missing.
    """
    if advice.choice in NO_RECIPE:
        return "No recipe is written: the advice is not to train."
    if not path.parent.is_dir():
        raise RequestError(f"There is no folder {path.parent}. Make it, or name another --output.")
    text = advised_recipe(advice, settings, file=str(path))
    path.write_text(text, encoding="utf-8")
    try:
        load_recipe(path)
    except AccordError:
        path.unlink()
        raise
    return f"Written: {path}. Look with `accord plan {path}`, then `accord run {path}`."


def advised_recipe(advice: Advice, settings: AdviseSettings, *, file: str) -> str:
    """The recipe as YAML text, with the advice as its first comment.

    Raises RequestError where there is nothing to run, or no data to run it on.
    """
    choice = advice.choice
    if choice in NO_RECIPE:
        raise RequestError(
            "The advice is not to train, so there is no recipe to write. Leave `--output` out."
        )
    files = advice.situation.files
    data = next((files[kind] for kind in _DATA[choice] if kind in files), None)
    if data is None:
        raise RequestError(
            f"`{choice}` needs prompts, and no file of data was given. Give one, such as "
            'prompts.jsonl with rows {"prompt": …}.'
        )
    head = "".join(
        f"# {line}\n"
        for line in (
            f"Advised by `accord advise`: {choice} (confidence: {advice.confidence}).",
            f"Why: {advice.rule.reason}",
            f"What would change it: {advice.rule.change}",
        )
    )
    return head + "#\n" + _recipe(choice, settings, data, file)


def _recipe(choice: Choice, settings: AdviseSettings, data: str, file: str) -> str:
    model, reward_model = settings.model, settings.reward_model
    if choice == "annotate":
        return _sampling(settings, data, file)
    if choice == "best-of-n":
        return _best_of_n(settings, data, file, rewards=_rewards(settings))
    if choice == "reward+best-of-n":
        rewards = "    reward_model: $reward/model\n"
        return _best_of_n(settings, data, file, rewards=rewards, first=_reward_stage(model, data))
    if choice == "reward+grpo":
        text = starter_recipe("grpo", Start((model,), data, "$reward/model"), file=file)
        return text.replace("stages:\n", f"stages:\n{_reward_stage(model, data)}", 1)
    if choice != "grpo" or reward_model is not None:
        return starter_recipe(choice, Start((model,), data, reward_model), file=file)
    text = starter_recipe(choice, Start((model,), data, _UNNAMED), file=file)
    line = f"    reward_model: {_scalar(_UNNAMED)}\n"
    # The training stage names it first; an evaluation takes reward models alone.
    return text.replace(line, _rewards(settings), 1).replace(line, "")


def _sampling(settings: AdviseSettings, data: str, file: str) -> str:
    """Two answers to each prompt, to be judged by people."""
    return f"""# Run:   accord run {file}
# Then:  accord annotate votes.db responses=runs/annotate/sample/responses.jsonl
output_dir: runs/annotate
stages:
  - stage: sample                # two answers to each prompt, to be compared by people
    model: {_scalar(settings.model)}
    dataset: {_scalar(data)}
    num_responses: 2
"""


def _reward_stage(model: str, data: str) -> str:
    return f"""
  - stage: train                 # probe it before you trust it: accord probe
    name: reward
    method: reward
    model: {_scalar(model)}
    dataset: {_scalar(data)}
    lora: on
    precision: bf16
"""


def _best_of_n(
    settings: AdviseSettings, data: str, file: str, *, rewards: str, first: str = ""
) -> str:
    n = settings.candidates if settings.candidates > 1 else DEFAULT_N
    return f"""# Run:  accord run {file}
# It selects among answers to the prompts of the data, to look at before anyone waits for N answers.
output_dir: runs/best-of-n
stages:
{first}
  - stage: sample
    model: {_scalar(settings.model)}
    dataset: {_scalar(data)}
    num_responses: {n}
    max_prompts: 200
    precision: bf16

  - stage: select                # of {n} answers, the one with the highest reward
    responses: $sample/responses.jsonl
    n: {n}
    model_name: best-of-{n}
{rewards}"""


def _rewards(settings: AdviseSettings) -> str:
    """The lines of a stage that name its reward."""
    if settings.reward_model is not None:
        return f"    reward_model: {_scalar(settings.reward_model)}\n"
    if settings.rewards is None:
        raise RequestError(
            "The advised method scores answers, and a judge of pairs does not. Give `rewards` "
            "with the judge as a source (kind: judge), or a reward model."
        )
    rows = [source.model_dump(mode="json", exclude_defaults=True) for source in settings.rewards]
    for row, source in zip(rows, settings.rewards, strict=True):
        row["kind"] = source.kind
    return indent(yaml.safe_dump({"rewards": rows}, sort_keys=False), "    ")


def _scalar(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
