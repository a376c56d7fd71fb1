"""The command `accord chat`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

commands = typer.Typer()


Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="A model's folder, an adapter's, a run's, a hub name, or the address of an "
        "OpenAI-compatible server (http://…/v1, or http://…/v1#NAME); two to compare them.",
    ),
]
RewardOption = Annotated[
    str | None,
    typer.Option(
        "--reward",
        metavar="REWARD",
        help="What scores answers for /best: a reward model's folder, or a YAML file with "
        "`rewards`.",
    ),
]
Best = Annotated[
    int, typer.Option("--best", metavar="N", min=1, max=256, help="Answer with the best of N.")
]
Store = Annotated[
    str,
    typer.Option("--store", metavar="STORE", help="The preference store that votes go into."),
]
Annotator = Annotated[
    str | None,
    typer.Option("--annotator", metavar="NAME", help="Your name in the store; else your login."),
]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system prompt.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="The same answers, and order, each time."),
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", metavar="T", min=0, max=100, help="Sampling temperature."),
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", metavar="N", min=1, help="Tokens of an answer.")
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env", metavar="NAME", help="Environment variable with a server's API key."
    ),
]
PrecisionOption = Annotated[
    Literal["fp32", "bf16"], typer.Option("--precision", metavar="TYPE", help="fp32 or bf16.")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", metavar="NAME", help="auto, cpu or cuda."),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a hub model.")
]


@commands.command()
def chat(
    models: Models,
    reward: RewardOption = None,
    best: Best = 1,
    store: Store = "chat.db",
    annotator: Annotator = None,
    system: System = None,
    seed: Seed = None,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 1024,
    api_key_env: ApiKeyEnv = None,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Talk with a model in the terminal, or with two side by side, blind.

    Answers are streamed. With two models each message gets both answers in an order that is drawn
    and not shown; your vote (1, 2, tie) is in the preference store at once, and the answer that
    you prefer continues the conversation.

    \b
    Examples:
      accord chat runs/dpo
      accord chat runs/sft runs/dpo --store votes.db
      accord chat runs/sft --reward runs/reward/model --best 8
      accord chat http://127.0.0.1:8000/v1
    \f
    /help in the chat lists its commands, such as `/best 8`, `/seed 1`, `/system TEXT` and `/save`.
    Ctrl-C stops an answer and not the chat. [chat.md](chat.md) has more.
    """
    from accord.serve.chat.start import ChatOptions, chat_with

    make_reward = None
    if reward is not None:
        from accord.compare.rewards.build import build_reward
        from accord.pipeline.stages.judges import flawed_reward
        from accord.settings.best_of import read_rewards

        sources = read_rewards(reward)

        def make_reward() -> object:
            return build_reward(
                sources, device=device, trust_remote_code=trust_remote_code, world=flawed_reward
            )

    options = ChatOptions(
        tuple(models),
        store,
        annotator,
        system,
        seed,
        temperature,
        max_tokens,
        best,
        api_key_env,
        precision,
        device,
        trust_remote_code,
    )
    chat_with(options, make_reward)  # type: ignore[arg-type]
