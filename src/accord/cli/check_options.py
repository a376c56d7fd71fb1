"""The options of `accord data check`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class FailOn(StrEnum):
    """The level of findings from which on the exit code is 1."""

    error = "error"
    warning = "warning"
    never = "never"


CheckedPath = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A file, a folder, a hub name, or a preference store."),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="With --model: settings of the method, such as max_length=512 or "
        "long_prompts=keep_end.",
        show_default=False,
    ),
]
KindOfRows = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="Read the rows as text, demonstrations, comparisons, rankings, ratings, prompts "
        "or battles; by default the columns decide.",
    ),
]
HeldOutPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--held-out",
        metavar="PATH",
        help="Another split, such as the test rows: no prompt of it may occur in FILE. May be "
        "repeated.",
    ),
]
EvaluationSets = Annotated[
    list[str] | None,
    typer.Option(
        "--eval-set",
        metavar="PATH",
        help="An evaluation set (a file, a store, MT-bench, XSTest, AdvBench as published): name "
        "the rows that hold its texts, by n-grams. May be repeated.",
    ),
]
Ignored = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="KIND", help="Leave this kind of finding out."),
]
FailLevel = Annotated[
    FailOn,
    typer.Option(
        "--fail-on",
        metavar="LEVEL",
        help="End with exit code 1 where a finding has this level (error or warning) or a graver "
        "one, or never.",
    ),
]
ShownRows = Annotated[
    int, typer.Option("--show", metavar="N", min=0, help="Rows that each finding shows.")
]
Page = Annotated[
    str | None,
    typer.Option("--page", metavar="HTML", help="Write the findings as one HTML page."),
]
JsonFile = Annotated[
    str | None,
    typer.Option("--json", metavar="JSON", help="Write the findings with all their rows as JSON."),
]
Dropped = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="KIND", help="With --write: leave out the rows of this finding."
    ),
]
NewFile = Annotated[
    str | None,
    typer.Option(
        "--write", metavar="JSONL", help="Write the rows without those of --drop to a new file."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PATH",
        help="A model folder or hub name: count tokens, and the rows that training would use, "
        "cut and drop.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="METHOD", help="The training method; by default the kind decides."
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option("--max-length", metavar="N", help="Short for max_length=N.", min=2),
]
MaxPromptLength = Annotated[
    int | None,
    typer.Option("--max-prompt-length", metavar="N", help="Short for max_prompt_length=N.", min=1),
]
