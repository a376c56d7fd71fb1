"""The commands for saved models: `accord merge` and `accord push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

commands = typer.Typer()

SaveDtype = Literal["auto", "fp32", "bf16", "fp16"]


@commands.command()
def merge(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="The folder of a LoRA adapter, or its run's.")
    ],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", metavar="DIR", help="Folder for the merged model.")
    ],
    dtype: Annotated[
        SaveDtype,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Precision of the saved weights: fp32, bf16 or fp16; by default the base's own.",
        ),
    ] = "auto",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code that comes with a hub model."),
    ] = False,
) -> None:
    """Merge a LoRA adapter into its base.

    The folder then contains a full model with its tokenizer, generation configuration and model
    card, which loads in transformers. A reward model's adapter gives a full reward model.

    \b
    Example:
      accord merge runs/dpo/model --output-dir merged
    \f
    The sum is computed in float32 and rounded once to the precision of the base's files. What is
    not LoRA is refused.
    """
    from accord.learn.loop.card import merged_card
    from accord.lm.adapters.merge import merge_adapter

    merge_adapter(
        adapter,
        output_dir,
        card=merged_card(adapter, output_dir),
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    typer.echo(f"Done: {output_dir}")


@commands.command()
def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of a model, or of a finished run.")
    ],
    name: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face hub.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Create a repository that everybody can read.")
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="OWNER/NAME",
            help="The hub name of an adapter's base that was trained on a folder.",
        ),
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub.

    The repository is created if there is none: private, unless --public is given. Uploaded are the
    weights, the configuration, the tokenizer and the model card.

    \b
    Example:
      accord push runs/dpo ada/my-model
    \f
    It needs a token that may write: `hf auth login`, or the environment variable `HF_TOKEN`.
    Checkpoints, metrics and pickle files are not uploaded. A training stage uploads its model
    itself with `push_to_hub: true` and `hub_model_id: OWNER/NAME`.
    """
    from accord.lm.hub import upload_model

    url = upload_model(folder, name, private=not public, base_model=base_model)
    typer.echo(f"Done: {url}")
