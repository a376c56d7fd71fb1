"""The command `accord plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from accord.settings.recipe import Recipe

commands = typer.Typer()

DOES_NOT_FIT = 3


What = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|METHOD",
        help="A YAML file, a recipe that comes with accord, or a training method.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings of the method, or changes to the recipe as in `accord run`.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file with settings of the method."),
]
Gpus = Annotated[
    str | None,
    typer.Option("--gpus", metavar="4x80GB", help="Plan for this many GPUs with this memory each."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="24GB", help="Plan for a machine without a GPU and this memory."
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        help="Plan for this many processes: by default one on each GPU of --gpus, or as many as "
        "the launcher's WORLD_SIZE says.",
        show_default=False,
    ),
]
Fitted = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="KEY",
        help="The largest value of max_length, per_device_train_batch_size, "
        "max_tokens_per_forward or lora.r that fits.",
    ),
]
Measure = Annotated[
    bool, typer.Option("--measure", help="Run two steps for real: seconds a step, and the peak.")
]
Compare = Annotated[
    bool,
    typer.Option("--compare", help="The roles of DPO and PPO, full and under LoRA."),
]
Stage = Annotated[
    str | None,
    typer.Option(
        "--stage",
        metavar="NAME",
        help="The recipe's stage that these three are about; by default the last that trains.",
    ),
]
AllSettings = Annotated[
    bool, typer.Option("--settings", help="Show every setting of every stage as well.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the plan as JSON, with bytes as numbers.")
]


@commands.command()
def plan(
    what: What,
    overrides: Overrides = None,
    config: Config = None,
    gpus: Gpus = None,
    memory: Memory = None,
    processes: Processes = None,
    fit: Fitted = None,
    measure: Measure = False,
    compare: Compare = False,
    stage: Stage = None,
    settings: AllSettings = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe or a method would do and need, and run nothing.

    Each training stage is shown with its rows, steps and tokens, the memory of each role and of
    each phase of a step, whether that fits the machine, and its first batch as text. Of several
    processes the memory is that of one of them.

    \b
    Examples:
      accord plan demo sft.max_steps=10
      accord plan dpo model=my-model dataset=pairs.jsonl --gpus 1x24GB
      accord plan dpo.yaml --fit max_length
      accord plan dpo.yaml dpo.sharding=fsdp --gpus 4x80GB
    \f
    The exit code is 3 where a stage does not fit. [plan.md](plan.md) explains the table and
    compares it with measured peaks.
    """
    recipe = _recipe(what, overrides or [], config)
    from accord.pipeline.plan import print_plan
    from accord.pipeline.plan.ask import PlanQuestion

    question = PlanQuestion(
        gpus, memory, stage, fit, measure, compare, settings, as_json, processes
    )
    if not print_plan(recipe, question):
        raise typer.Exit(DOES_NOT_FIT)


def _recipe(what: str, overrides: list[str], config: Path | None) -> Recipe:
    """The recipe of that name, or a recipe of one stage that trains by the method."""
    from accord.errors import SettingsError
    from accord.settings.recipe import METHOD_SETTINGS, Recipe, load_recipe, single_stage

    if what not in METHOD_SETTINGS:
        if config is not None:
            raise SettingsError(
                f"--config has the settings of a method, and {what!r} is a recipe. Leave it out, "
                "or name a method, such as dpo."
            )
        return load_recipe(what, overrides)
    given = [text for text in overrides if text.partition("=")[0] == "output_dir"]
    folder = [] if given or config is not None else [f"output_dir=runs/{what}"]
    stage = single_stage("train", what, config=config, overrides=[*folder, *overrides])
    output_dir = stage.settings.output_dir  # type: ignore[attr-defined]
    return Recipe(output_dir, stage.settings.seed, (stage,))  # type: ignore[attr-defined]
