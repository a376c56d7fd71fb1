"""The commands of best-of-N: `accord best-of curve`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from accord.cli.stage_command import Config

commands = typer.Typer(help="Best-of-N: what each N gains and costs.", rich_markup_mode=None)


@commands.callback()
def group() -> None:
    """Best-of-N: what each N gains and costs."""


@commands.command("curve")
def curve(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|KEY=VALUE",
            help="The model's folder, then settings of the curve.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Measure best-of-N for N = 1, 2, 4, … from one set of responses, before paying for it.

    For each N: the expected reward, an independent measure beside it, the KL, the length and the
    cost in tokens and seconds, with intervals over prompts. It warns where the independent measure
    turns down while the reward still rises. All of it is written to curve.json in `output_dir`.

    \b
    Examples:
      accord best-of curve runs/sft/model dataset=prompts.jsonl reward_model=runs/rm/model \\
        independent='[{kind: reward_model, model: runs/other/model}]' output_dir=runs/curve
      accord best-of curve responses=runs/sft-64/responses.jsonl reward_model=runs/rm/model \\
        output_dir=runs/curve
    \f
    [best-of-n.md](best-of-n.md) says what each number means and when best-of-N is the wrong choice;
    the settings are in [settings.md](settings.md#curve). The same command again resumes: what is
    sampled or scored is not sampled or scored again.
    """
    from accord.settings.recipe import single_stage

    values = list(overrides or [])
    if values and "=" not in values[0]:
        values[0] = f"model={json.dumps(values[0])}"
    plan = single_stage("curve", None, config=config, overrides=values)
    from accord.pipeline import run_stage  # imports torch: after the settings are checked
    from accord.pipeline.stages.curve import read_curve
    from accord.settings.best_of import CurveSettings

    if not run_stage(plan):
        return
    assert isinstance(plan.settings, CurveSettings)
    typer.echo(read_curve(plan.settings.output_dir)["finding"])
    typer.echo(f"Done: {plan.settings.output_dir}")
