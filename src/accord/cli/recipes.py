"""The commands for a whole run: `accord demo`, `accord run` and `accord plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or a recipe that comes with accord.")
]
RecipeOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe: output_dir=…, seed=…, title=…, or NAME.key=… for the stage "
        "NAME.",
        show_default=False,
    ),
]


@commands.command()
def demo(
    overrides: RecipeOverrides = None,
    output_dir: Annotated[
        str,
        typer.Option("--output-dir", metavar="DIR", help="Folder for everything the demo writes."),
    ] = "runs/demo",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of all random draws.")
    ] = 0,
) -> None:
    """Run the whole cycle on a small embedded world.

    The stages: SFT, a reward model, PPO, DPO, best-of-N, an arena, and a report.

    It needs no download and no GPU. What people prefer is known in this world, so the report shows
    not only what the reward model thinks of each model but what is true. After an interruption,
    the same command resumes where it stopped.

    \b
    Example:
      accord demo --output-dir runs/demo --seed 1
    \f
    The report is `report.html` in `--output-dir`, and its numbers are `results.json`.

    It is the recipe `demo`: `accord plan demo` shows its stages, and `sft.max_steps=50` changes
    one.
    """
    # JSON text is YAML text, so that a folder with any name is read correctly.
    run_values = [f"output_dir={json.dumps(output_dir)}", f"seed={seed}"]
    _run_recipe("demo", [*run_values, *(overrides or [])])


@commands.command("run")
def run_(recipe: RecipeName, overrides: RecipeOverrides = None) -> None:
    """Run a recipe, a list of stages in YAML.

    Finished stages are not run again, so an interrupted run resumes where it stopped. A stage runs
    again when its settings or its inputs changed. `accord plan RECIPE` shows what would run.

    \b
    Example:
      accord run my.yaml output_dir=runs/two dpo.beta=0.2
    \f
    `output_dir`, `seed` and `title` are the run's own keys; `NAME.key` is a key of the stage called
    NAME.

    ```yaml
    output_dir: runs/mine
    stages:
      - stage: train
        method: sft
        model: my-model
        dataset: demonstrations.jsonl
      - stage: train
        method: dpo
        model: $sft/model
        dataset: pairs.jsonl
        beta: 0.1
    ```

    A stage has the name of its method or kind unless it has a `name`; it writes to a folder of that
    name in the run's folder. `$sft/model` is the model that the stage `sft` wrote.
    """
    _run_recipe(recipe, overrides or [])


@commands.command()
def plan(recipe: RecipeName, overrides: RecipeOverrides = None) -> None:
    """Show what a recipe would run, and run nothing.

    Each stage is shown with the values of all settings, and whether it is already finished.

    \b
    Example:
      accord plan demo sft.max_steps=10
    """
    from accord.settings.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from accord.pipeline import plan_recipe

    typer.echo(plan_recipe(loaded))


def _run_recipe(name: str, overrides: list[str]) -> None:
    from accord.settings.recipe import load_recipe

    recipe = load_recipe(name, overrides)
    from accord.pipeline import run_recipe  # imports torch: after the recipe is checked

    if not run_recipe(recipe):
        return
    page = Path(recipe.output_dir) / "report.html"
    typer.echo(f"Done: {page if page.is_file() else page.parent}")
