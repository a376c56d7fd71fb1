"""The commands for judges: `accord judge check` and `correct`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from accord.pipeline.judges.check import JudgeReport
    from accord.pipeline.progress import Progress

commands = typer.Typer(help="Prove judges on people's verdicts.", rich_markup_mode=None)


People = Annotated[
    str,
    typer.Argument(
        metavar="PEOPLE", help="People's verdicts: a preference store, a file or a hub name."
    ),
]
JudgeValues = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings of the judge, such as base_url=http://127.0.0.1:8000/v1 model=NAME.",
        show_default=False,
    ),
]
JudgeFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="A YAML file with the judge's settings, alone or under the key judge; the command "
        "line wins.",
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Of a file: only rows with this value."),
]
Annotators = Annotated[
    list[str] | None,
    typer.Option(
        "--people",
        metavar="NAME",
        help="Of a store: an annotator who is a person; by default those of accord's page.",
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option("--criterion", metavar="NAME", help="Of a store: the criterion judged."),
]
TunedOn = Annotated[
    str | None,
    typer.Option(
        "--tuned-on",
        metavar="FILE",
        help="Rows that the judge's prompt was written with: their prompts are left out.",
    ),
]
MaxPairs = Annotated[
    int | None,
    typer.Option("--max-pairs", metavar="N", help="Draw this many pairs at random.", min=1),
]
Repeats = Annotated[
    int, typer.Option("--repeats", metavar="N", help="Pairs that are asked again.", min=0)
]
MinKappa = Annotated[
    float,
    typer.Option(
        "--min-kappa",
        metavar="K",
        help="The kappa that it must surely pass; 0 is the best constant answer's.",
        min=0.0,
        max=1.0,
    ),
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--own-model",
        metavar="NAME",
        help="The model whose answers count as the judge's own; by default the judge's name.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of what is drawn.", min=0)]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="STORE",
        help="The store that the result is recorded in; by default PEOPLE, if it is one.",
    ),
]
Output = Annotated[
    str | None, typer.Option("--output", metavar="FILE", help="Write the result as JSON.")
]


@commands.command("check")
def check(
    people: People,
    overrides: JudgeValues = None,
    config: JudgeFile = None,
    where: Where = None,
    annotators: Annotators = None,
    criterion: Criterion = None,
    tuned_on: TunedOn = None,
    max_pairs: MaxPairs = None,
    repeats: Repeats = 15,
    min_kappa: MinKappa = 0.0,
    own_model: OwnModel = None,
    seed: Seed = 0,
    store: Store = None,
    output: Output = None,
) -> None:
    """Prove a judge: measure its agreement with people on pairs that it was not tuned on.

    Each pair is judged in both orders. The judge passes if its kappa with people surely beats the
    best constant answer. The exit code is 0 if it passes, and 1 if it fails or if more verdicts are
    needed.

    \b
    Examples:
      accord judge check votes.db base_url=http://127.0.0.1:8000/v1 model=NAME
      accord judge check testset.json --config judge.yaml --store votes.db --output check.json
    \f
    The report gives the reason in words, and its preference for the response shown first, for the
    longer one and for its own model's, net of what people show on the same rows; how often it
    repeats itself; and how many more verdicts would decide. What each number is:
    [judges.md](judges.md#the-proof-of-a-judge).

    Files may hold pairs with one label (`output_1`, `output_2`, `label`), with a label of each
    annotator (`annotator1`, `annotator2`, …), or chosen and rejected responses. Answers are cached:
    the same command again asks nothing twice.

    The result is recorded in the store, passed or not, under the judge's fingerprint: model,
    endpoint, digests of prompt and rubric, temperature and the like. With any of it changed it is
    another judge, which has not passed.
    """
    from accord.pipeline.judges.check import CheckOptions
    from accord.pipeline.judges.run import judge_settings, run_check, select_columns

    work = run_check(
        people,
        judge_settings(config, overrides or []),
        CheckOptions(min_kappa, 0.95, max_pairs, repeats, own_model, seed),
        where=select_columns(where or []),
        annotators=annotators or [],
        criterion=criterion,
        tuned_on=tuned_on,
        store=store,
        output=output,
    )
    _report(work)


def _report(work: Generator[Progress, None, JudgeReport]) -> None:
    """Run a check with a progress bar and print its report. Raises Exit where it did not pass."""
    from rich.console import Console

    from accord.pipeline.console import messages_above_bar, work_with_bar
    from accord.pipeline.judges.text import format_report

    console = Console(stderr=True)
    with messages_above_bar(console):
        report: JudgeReport = work_with_bar("judge check", work, console)
    typer.echo(format_report(report))
    if not report.passed:
        raise typer.Exit(1)


@commands.command("correct")
def correct(
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="A preference store with the judge's verdicts.")
    ],
    judge: Annotated[
        str, typer.Option("--judge", metavar="NAME", help="The judge, by its annotator's name.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model whose wins are counted.")
    ],
    against: Annotated[
        str, typer.Option("--against", metavar="NAME", help="The model that it meets.")
    ],
    annotators: Annotators = None,
    output: Output = None,
) -> None:
    """Correct a judge's win rate between two models by the pairs that people have judged too.

    Prints the win rate by the judge, by people, and corrected, each with its interval: the judge's
    rate over all its pairs, less its error on those that people judged. It covers people's own rate
    however biased the judge is, if people judged a random draw of its pairs.

    \b
    Example:
      accord judge correct runs/arena/store.db --judge NAME --model dpo --against sft
    \f
    Prediction-powered inference: [judges.md](judges.md#a-win-rate-corrected-by-people).
    """
    from accord.pipeline.judges.correct import correct_win_rate
    from accord.runs import write_json_atomic

    result = correct_win_rate(store, judge, model, against, people=annotators or [])
    if output is not None:
        write_json_atomic(output, result.to_json())
    typer.echo(str(result))
