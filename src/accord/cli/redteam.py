"""The command `accord redteam`."""

from __future__ import annotations

from typing import Annotated

import typer

from accord.cli.gate import FailOn
from accord.cli.stage_command import Config

commands = typer.Typer()


@commands.command()
def redteam(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|KEY=VALUE",
            help="A model's folder or hub name, then settings of the red team.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    fail_on: FailOn = None,
) -> None:
    """Attack a model: harmful compliance, over-refusal and jailbreak success, together.

    Suites of harmful prompts and of harmless ones that look harmful are put to the model, the
    harmful ones by a list of attacks too. Every answer is logged in attempts.jsonl at once, so the
    same command resumes what was interrupted. Rates have intervals and are corrected for the
    grader's error; redteam.json in `output_dir` holds them.

    \b
    Examples:
      accord redteam runs/dpo/model output_dir=runs/redteam max_prompts=20
      accord redteam runs/dpo/model suites='[accord, xstest.csv]' attacks='[base64+prefill]' ...
      accord redteam --config redteam.yaml --fail-on harmful_compliance --fail-on over_refusal
    \f
    ```yaml
    # redteam.yaml
    models:                                  # compared as a frontier
      - {name: before, model: runs/sft/model}
      - {name: after, model: runs/safety/model}
      - {name: served, model: NAME, base_url: http://127.0.0.1:8000/v1}
    output_dir: runs/redteam
    suites: [accord, xstest.csv, harmbench.csv]
    attacks: [role_play, base64+prefix_injection, text_noise*10, crescendo, pair]
    attacker: {model: NAME, base_url: http://127.0.0.1:8001/v1}
    judge: {kind: endpoint, model: NAME, base_url: http://127.0.0.1:8001/v1}
    max_calls: 5000
    ```

    With `--fail-on` the exit code is 3 where an audit fails the gate. Suites, attacks, grading and
    statistics: [redteam.md](redteam.md).
    """
    from accord.cli.gate import gate, require_known
    from accord.measure.audits.redteam import AUDIT_NAMES
    from accord.settings.recipe import single_stage

    requested = require_known(fail_on, AUDIT_NAMES)
    values = list(overrides or [])
    if values and "=" not in values[0]:
        values[0] = f"model={values[0]}"
    plan = single_stage("redteam", None, config=config, overrides=values)
    from accord.pipeline import run_stage  # imports torch: after the settings are checked
    from accord.pipeline.stages.redteam import read_document
    from accord.pipeline.stages.redteam import redteam as attack
    from accord.settings.redteam import RedteamSettings

    if not run_stage(plan):
        return
    settings = plan.settings
    assert isinstance(settings, RedteamSettings)
    if settings.store is not None:
        for _ in attack(settings):  # people may have labelled since; no model is asked again
            pass
    output_dir = settings.output_dir
    document = read_document(output_dir)
    typer.echo(document.text())
    typer.echo(f"Done: {output_dir}")
    gate(document.audits, requested)
