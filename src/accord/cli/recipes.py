"""The commands for a whole run: `accord demo`, `init` and `run`."""

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


@commands.command()
def init(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="A training method (sft, reward, dpo, kto, orpo, ppo, grpo, …), iterate, judge, "
            "revise or arena.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model", metavar="MODEL", help="A folder or a hub name; an arena has several."
        ),
    ],
    data: Annotated[
        str, typer.Option("--data", metavar="FILE", help="The rows: a file, folder or hub name.")
    ],
    reward_model: Annotated[
        str | None,
        typer.Option(
            "--reward-model",
            metavar="MODEL",
            help="The reward model of an online method, or the judge of the others.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file to write; by default KIND.yaml."
        ),
    ] = None,
) -> None:
    """Write a short recipe for your own model and data.

    The recipe has comments, and defaults do the rest: rows are held out, the model is trained, and
    a report compares it with its start.

    \b
    Example:
      accord init dpo --model HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl
    \f
    Then `accord plan dpo.yaml` shows what it needs, and `accord run dpo.yaml` runs the recipe. An
    existing file is never overwritten. `judge` writes the preferences of a judge between a model's
    own answers; `revise` has the model criticise and revise them; `arena` compares several models.
    Without `--reward-model` their judge is a language model at an OpenAI-compatible endpoint, whose
    address and name you fill in.
    """
    from accord.errors import RequestError
    from accord.settings.recipe import load_recipe
    from accord.settings.starters import Start, starter_recipe

    path = output or Path(f"{kind}.yaml")
    text = starter_recipe(kind, Start(tuple(model), data, reward_model), file=str(path))
    _check_paths(*model, data, *([reward_model] if reward_model else []))
    if path.exists():
        raise RequestError(f"{path} exists. Name another file with --output, or remove it.")
    if not path.parent.is_dir():
        raise RequestError(f"There is no folder {path.parent}. Make it, or name another --output.")
    path.write_text(text, encoding="utf-8")
    load_recipe(path)  # every setting is checked
    typer.echo(f"Written: {path}. Look with `accord plan {path}`, then `accord run {path}`.")
    from accord.data.plain_prompts import plain_prompts_remark

    if (remark := plain_prompts_remark(model[0], data)) is not None:
        typer.echo(remark, err=True)


def _check_paths(*names: str) -> None:
    """Raise RequestError for a name at which nothing lies, and that is no hub name."""
    from accord.errors import RequestError
    from accord.hub_names import means_hub

    for name in names:
        if not Path(name).expanduser().exists() and not means_hub(name):
            raise RequestError(
                f"There is no file or folder {name!r}. Check the path; a hub name is OWNER/NAME."
            )


@commands.command("run")
def run_(
    recipe: RecipeName,
    overrides: RecipeOverrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the stages with every setting; run nothing.")
    ] = False,
) -> None:
    """Run a recipe, a list of stages in YAML.

    Finished stages are not run again, so an interrupted run resumes where it stopped. A stage runs
    again when its settings or its inputs changed. `accord plan RECIPE` shows what it would do and
    need.

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
    if dry_run:
        _show_settings(recipe, overrides or [])
    else:
        _run_recipe(recipe, overrides or [])


def _show_settings(name: str, overrides: list[str]) -> None:
    from accord.settings.recipe import load_recipe

    loaded = load_recipe(name, overrides)
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
