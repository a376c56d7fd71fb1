"""The command `accord serve`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

commands = typer.Typer()

Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


@commands.command()
def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's folder, a LoRA adapter's, a run's, or a hub name."
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", metavar="NAME", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port to listen on.")
    ] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="Answer only requests with this key; several may be given. Other users of this "
            "machine can read a command line: better set ACCORD_API_KEY.",
        ),
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Let other machines ask without a key.")
    ] = False,
    model_name: Annotated[
        str | None,
        typer.Option("--model-name", metavar="NAME", help="The model's name in requests."),
    ] = None,
    max_rows: Annotated[
        int,
        typer.Option(
            "--max-rows", metavar="N", min=1, max=4096, help="Responses generated at a time."
        ),
    ] = 64,
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting",
            metavar="N",
            min=0,
            help="Responses that wait for their turn; beyond it requests get 429.",
        ),
    ] = 256,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            metavar="N",
            min=2,
            help="Tokens of a prompt with its response; by default the model's positions.",
        ),
    ] = None,
    precision: Annotated[
        Precision, typer.Option("--precision", metavar="TYPE", help="fp32 or bf16.")
    ] = "fp32",
    device: Annotated[
        Device, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")
    ] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
    ] = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients speak to one.

    Requests are batched continuously: each joins at the next token and leaves with its last. The
    server needs `pip install accord[serve]`.

    \b
    Examples:
      accord serve runs/dpo --precision bf16
      ACCORD_API_KEY=secret accord serve runs/dpo --host 0.0.0.0
    \f
    The server is described in [serving.md](serving.md).
    """
    from accord.serve.command import ServeOptions, serve_model

    options = ServeOptions(
        model,
        model_name,
        host,
        port,
        tuple(api_key or ()),
        without_key,
        max_rows,
        max_waiting,
        max_length,
        precision,
        device,
        trust_remote_code,
    )
    serve_model(options, log=typer.echo)
