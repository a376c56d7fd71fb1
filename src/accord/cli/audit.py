"""The command `accord audit`."""

from __future__ import annotations

from typing import Annotated

import typer

from accord.cli.gate import FailOn
from accord.cli.stage_command import Config

commands = typer.Typer()


@commands.command()
def audit(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|KEY=VALUE",
            help="The trained model's folder, then settings of the audit.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    fail_on: FailOn = None,
) -> None:
    """Audit a trained model: did quality rise with the reward, and what did training break?

    Both models, before and after training, answer the same prompts. Each audit gives a verdict
    (pass, warn, fail, or undecided with the number of cases that would decide), its number with an
    interval, its threshold with the reason, and samples. All of it is written to audit.json in
    `output_dir`.

    \b
    Examples:
      accord audit runs/dpo/model before=runs/sft/model dataset=prompts.jsonl output_dir=runs/audit
      accord audit --config audit.yaml --fail-on fail --fail-on over_refusal
    \f
    ```yaml
    # audit.yaml
    model: runs/ppo/model
    before: runs/sft/model
    dataset: unseen-prompts.jsonl
    output_dir: runs/audit
    reward_model: runs/reward/model        # what it was trained against
    independent:                           # what it was not trained against
      - {kind: judge, base_url: http://127.0.0.1:8000/v1, model: NAME}
    tasks:                                 # what it must still be able to do: task_arithmetic
      - {name: arithmetic, dataset: arithmetic.jsonl, rule: number}
    held_out: unseen-demonstrations.jsonl  # the loss on their tokens
    questions: facts.jsonl                 # question, answer: yes or no
    curve:                                 # checkpoints, for the turning point over the KL
      - {name: step 100, responses: runs/ppo-100/responses.jsonl, model: runs/ppo-100/model}
      - {name: step 200, responses: runs/ppo-200/responses.jsonl, model: runs/ppo/model}
    ```

    With `--fail-on` the exit code is 3 where an audit fails the gate. What each audit measures, its
    threshold, and how often it is right: [audits.md](audits.md).
    """
    from accord.cli.gate import gate, require_known
    from accord.measure.audits.broken import TASK
    from accord.measure.audits.models import AUDIT_NAMES
    from accord.settings.audit import AuditSettings
    from accord.settings.recipe import single_stage

    values = list(overrides or [])
    if values and "=" not in values[0]:
        values[0] = f"model={values[0]}"
    plan = single_stage("audit", None, config=config, overrides=values)
    assert isinstance(plan.settings, AuditSettings)
    tasks = [TASK + task.name for task in plan.settings.tasks]
    requested = require_known(fail_on, [*AUDIT_NAMES, *tasks])
    from accord.pipeline import run_stage  # imports torch: after the settings are checked
    from accord.pipeline.stages.audit import read_document

    if not run_stage(plan):
        return
    output_dir = plan.settings.output_dir
    document = read_document(output_dir)
    typer.echo(document.text())
    typer.echo(f"Done: {output_dir}")
    gate(document.audits, requested)
