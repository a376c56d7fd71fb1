"""The command `accord serve`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

commands = typer.Typer()

Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's folder, a LoRA adapter's, a run's, or a hub name."
    ),
]
Host = Annotated[str, typer.Option("--host", metavar="NAME", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port to listen on.")
]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="Answer only requests with this key; several may be given. Other users of this "
        "machine can read a command line: better set ACCORD_API_KEY.",
    ),
]
WithoutKey = Annotated[
    bool, typer.Option("--without-key", help="Let other machines ask without a key.")
]
ModelName = Annotated[
    str | None,
    typer.Option("--model-name", metavar="NAME", help="The model's name in requests."),
]
MaxRows = Annotated[
    int,
    typer.Option("--max-rows", metavar="N", min=1, max=4096, help="Responses generated at a time."),
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        "--max-waiting",
        metavar="N",
        min=0,
        help="Responses that wait for their turn; beyond it requests get 429.",
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        metavar="N",
        min=2,
        help="Tokens of a prompt with its response; by default the model's positions.",
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", metavar="TYPE", help="fp32 or bf16.")
]
DeviceOption = Annotated[
    Device, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
]


@commands.command()
def serve(
    model: Model,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKeys = None,
    without_key: WithoutKey = False,
    model_name: ModelName = None,
    max_rows: MaxRows = 64,
    max_waiting: MaxWaiting = 256,
    max_length: MaxLength = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    trust_remote_code: TrustRemoteCode = False,
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
