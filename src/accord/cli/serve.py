"""The command `accord serve`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from accord.cli import best_of_options as best

commands = typer.Typer()

Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A model's folder, a LoRA adapter's, a run's, or a hub name; with --upstream its name "
        "there.",
        show_default=False,
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
WithoutPrefixCache = Annotated[
    bool,
    typer.Option(
        "--without-prefix-cache",
        help="Read every prompt whole, also where an earlier one began with the same tokens.",
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
    model: Model = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKeys = None,
    without_key: WithoutKey = False,
    model_name: ModelName = None,
    max_rows: MaxRows = best.MAX_ROWS,
    max_waiting: MaxWaiting = best.MAX_WAITING,
    max_length: MaxLength = None,
    without_prefix_cache: WithoutPrefixCache = False,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    trust_remote_code: TrustRemoteCode = False,
    best_of: best.BestOfN = None,
    reward: best.RewardOption = None,
    max_best_of: best.MaxBestOf = None,
    prune: best.Prune = None,
    enough: best.Enough = None,
    candidate_cost: best.CandidateCost = None,
    wave: best.Wave = best.WAVE,
    floor: best.Floor = None,
    floor_text: best.FloorText = None,
    curve: best.Curve = None,
    upstream: best.Upstream = None,
    upstream_key_env: best.UpstreamKey = None,
    upstream_timeout: best.UpstreamTimeout = 300.0,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients speak to one.

    Requests are batched continuously: each joins at the next token and leaves with its last. The
    server needs `pip install accord[serve]`.

    \b
    Examples:
      accord serve runs/dpo --precision bf16
      ACCORD_API_KEY=secret accord serve runs/dpo --host 0.0.0.0
      accord serve runs/sft --best-of 16 --reward runs/reward --curve runs/curve
      accord serve --upstream http://127.0.0.1:8001/v1 --best-of 8 --reward rewards.yaml
    \f
    The server is described in [serving.md](serving.md), best-of-N in
    [best-of-n.md](best-of-n.md).
    """
    from accord.serve.command import ServeOptions, serve_model

    limits = max_rows, max_waiting, max_length
    best.refuse_with_upstream(upstream, upstream_key_env, *limits, without_prefix_cache)
    given = {"limit": max_best_of, "prune": prune, "enough": enough, "floor": floor}
    given |= {"candidate_cost": candidate_cost, "floor_text": floor_text, "curve": curve}
    given["wave"] = None if wave == best.WAVE else wave
    loading = best.Loading(precision, device, trust_remote_code)
    chosen = best.read_best_of(best_of, reward, given, loading)
    options = ServeOptions(
        model,
        model_name,
        host,
        port,
        tuple(api_key or ()),
        without_key,
        *limits,
        precision,
        device,
        trust_remote_code,
        upstream,
        upstream_key_env,
        upstream_timeout,
        chosen,
        caches_prefixes=not without_prefix_cache,
    )
    serve_model(options, log=typer.echo)
