"""The commands. What a command calls is imported inside it: `accord --help` imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import accord

app = typer.Typer(
    name="accord",
    rich_markup_mode=None,  # "[key=value …]" in a help text is text, not markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
data = typer.Typer(help="Look at data sets.", rich_markup_mode=None)
app.add_typer(data, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings; a value is read as YAML, and lora.r=8 reaches into a table.",
        show_default=False,
    ),
]
RecipeOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe: output_dir=…, seed=…, or NAME.key=… for the stage NAME.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="A YAML file with settings of the stage.")
]
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or a recipe that comes with accord.")
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"accord {accord.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (at any place).")
    ] = False,
) -> None:
    """Bring a language model into accord with what people prefer, and prove that it did.

    New here? `accord demo` runs the whole cycle on a small embedded world, from an untrained
    model to a report, with nothing to download.

    Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    overrides: RecipeOverrides = None,
    output_dir: Annotated[
        str, typer.Option("--output-dir", help="Folder for everything the demo writes.")
    ] = "runs/demo",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything drawn.")] = 0,
) -> None:
    """Run the whole cycle on a small embedded world.

    The stages: SFT, a reward model, PPO, DPO, best-of-N, an arena, and a report.

    It needs no download and no GPU. What people prefer is known in this world, so the report
    shows not only what the reward model thinks of each model but what is true. Interrupted, the
    same command goes on where it stopped.

    \b
    Example:
      accord demo --output-dir runs/demo --seed 1
    """
    # JSON text is YAML text, so that any name of a folder is read as it is.
    asked = [f"output_dir={json.dumps(output_dir)}", f"seed={seed}", *(overrides or [])]
    _run_recipe("demo", asked)


@app.command("run")
def run_(recipe: RecipeName, overrides: RecipeOverrides = None) -> None:
    """Run a recipe, a list of stages in YAML.

    Finished stages are not run again, so an interrupted run goes on where it stopped. A stage runs
    again when its settings or its inputs changed. `accord plan RECIPE` shows what would run.

    \b
    Example:
      accord run my.yaml output_dir=runs/two dpo.beta=0.2
    """
    _run_recipe(recipe, overrides or [])


@app.command()
def plan(recipe: RecipeName, overrides: RecipeOverrides = None) -> None:
    """Show what a recipe would run, and run nothing.

    Each stage is shown with every setting resolved, and whether it is finished already.

    \b
    Example:
      accord plan demo sft.max_steps=10
    """
    from accord.settings.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    from accord.pipeline import plan_recipe

    typer.echo(plan_recipe(loaded))


@app.command()
def train(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="sft, reward, dpo, ipo, kto, orpo, simpo, ppo, grpo or rloo.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Train a model by one method.

    \b
    sft     imitates demonstrations (rows with prompt and completion)
    reward  learns to score responses from comparisons (prompt, chosen, rejected)
    dpo     learns from comparisons directly, without a reward model
    ipo     does the same towards a margin of set size, which overfits less
    kto     learns from single responses with a label, or from comparisons
    orpo    learns from comparisons in one go with imitation, without a reference model
    simpo   learns from comparisons by mean log-probs, without a reference model
    ppo     learns from a reward model's scores of its own responses to prompts
    grpo    does the same by comparing several responses to a prompt, without a critic
    rloo    does the same with the KL in the reward, each response against the others

    `output_dir` then holds model/ (which loads in transformers or peft), metrics.jsonl,
    checkpoints/ and manifest.json. All settings: docs/settings.md.

    \b
    Example:
      accord train dpo model=runs/sft/model dataset=pairs.jsonl output_dir=runs/dpo
    """
    from accord.settings.recipe import find_method

    _run_stage("train", overrides, config, method=find_method(method))


@app.command()
def iterate(overrides: Overrides = None, config: Config = None) -> None:
    """Train in rounds on a model's own responses.

    Each round samples responses from the current model, has a judge compare them, and trains on
    the verdicts: iterative DPO, or with train.method=rejection_sampling SFT on the best responses.
    model/ in `output_dir` is the last round's, and rounds.json tells what each round gained. More
    rounds go on from the last one.

    \b
    Example:
      accord iterate model=runs/sft/model dataset=prompts.jsonl output_dir=runs/rounds rounds=3
    """
    _run_stage("iterate", overrides, config)


@app.command()
def sample(overrides: Overrides = None, config: Config = None) -> None:
    """Write a model's responses to prompts.

    K responses to each prompt go to responses.jsonl in `output_dir`.

    \b
    Example:
      accord sample model=runs/sft/model dataset=prompts.jsonl output_dir=runs/answers
    """
    _run_stage("sample", overrides, config)


@app.command()
def arena(overrides: Overrides = None, config: Config = None) -> None:
    """Rate models by comparing their responses.

    `contestants` lists the models, each with a name and its responses.jsonl on the
    same prompts; a judge compares. ratings.json (Bradley-Terry strengths on the Elo scale, with
    intervals) and store.db go to `output_dir`.

    \b
    Example:
      accord arena --config arena.yaml output_dir=runs/arena
    """
    _run_stage("arena", overrides, config)


@app.command()
def report(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN_DIR|KEY=VALUE",
            help="The run's folder, and settings of the report.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the finished report to a browser on this machine.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port for --serve, on 127.0.0.1.")
    ] = 8000,
) -> None:
    """Write the report of a run, or serve it.

    The report is report.html, one page that needs nothing else, and results.json.

    RUN_DIR stands for run=RUN_DIR and output_dir=RUN_DIR.

    \b
    Examples:
      accord report runs/demo
      accord report runs/demo --serve --port 8001
    """
    given = list(overrides or [])
    if given and "=" not in given[0]:
        run_dir = given.pop(0)
        given = _unless_given("run", run_dir, given)
        given = _unless_given("output_dir", run_dir, given)
    if serve:
        from accord.cli.serve import serve_report

        serve_report(given, port=port, say=typer.echo)
    else:
        _run_stage("report", given, config)


@data.command("check")
def check(
    place: Annotated[str, typer.Argument(metavar="FILE", help="A file, a folder, or a hub name.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="Read the rows as text, demonstrations, comparisons, rankings, ratings, prompts "
            "or battles; by default as what their columns say.",
        ),
    ] = None,
) -> None:
    """Say what a data set holds.

    It tells which rows can't be used and why, what was converted, and which method the rows fit.

    \b
    Example:
      accord data check pairs.jsonl --kind comparisons
    """
    from accord.cli.check import check_data

    typer.echo(check_data(place, kind))


@app.command()
def doctor() -> None:
    """Show versions, devices, memory and disk.

    Quote it with a question or a bug.
    """
    from accord.cli.doctor import facts

    rows = facts()
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def _run_stage(
    kind: str, overrides: list[str] | None, config: Path | None, *, method: str | None = None
) -> None:
    from accord.settings.recipe import single_stage

    stage = single_stage(kind, method, config=config, overrides=overrides or [])
    from accord.pipeline import run_stage

    if not run_stage(stage):
        return
    typer.echo(f"Done: {stage.settings.output_dir}")  # type: ignore[attr-defined]


def _unless_given(key: str, value: str, overrides: list[str]) -> list[str]:
    if any(override.startswith(f"{key}=") for override in overrides):
        return overrides
    return [f"{key}={json.dumps(value)}", *overrides]


def _run_recipe(name: str, overrides: list[str]) -> None:
    from accord.settings.recipe import load_recipe

    recipe = load_recipe(name, overrides)
    from accord.pipeline import run_recipe  # imports torch: after what can be wrong before it

    if not run_recipe(recipe):
        return
    page = Path(recipe.output_dir) / "report.html"
    typer.echo(f"Done: {page if page.is_file() else page.parent}")
