"""The options of `accord serve` for best-of-N and for a server upstream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from accord.errors import RequestError

if TYPE_CHECKING:
    from accord.serve.best_of.start import BestOf

MAX_ROWS, MAX_WAITING, WAVE = 64, 256, 4
_OPTIONS = {"limit": "--max-best-of"}  # those whose keys differ from their names

Upstream = Annotated[
    str | None,
    typer.Option(
        "--upstream",
        metavar="URL",
        help="Stand before an OpenAI-compatible server, such as vLLM at http://127.0.0.1:8001/v1; "
        "MODEL is then a model's name there.",
    ),
]
UpstreamKey = Annotated[
    str | None,
    typer.Option(
        "--upstream-key-env", metavar="NAME", help="Environment variable with that server's key."
    ),
]
UpstreamTimeout = Annotated[
    float,
    typer.Option(
        "--upstream-timeout",
        metavar="SECONDS",
        min=0.1,
        help="The longest that the next part of its answer may take.",
    ),
]
BestOfN = Annotated[
    int | None,
    typer.Option(
        "--best-of",
        metavar="N",
        min=1,
        max=1024,
        help="Answer with the best of N by --reward; a request may ask for another N.",
    ),
]
RewardOption = Annotated[
    str | None,
    typer.Option(
        "--reward",
        metavar="REWARD",
        help="What chooses: a reward model's folder, or a YAML file with `rewards` (an ensemble, "
        "rules, a judge).",
    ),
]
MaxBestOf = Annotated[
    int | None,
    typer.Option(
        "--max-best-of", metavar="N", min=1, help="The most that a request may ask for; 64, or N."
    ),
]
Prune = Annotated[
    str | None,
    typer.Option(
        "--prune",
        metavar="TOKENS:SHARE,…",
        help="After so many tokens only the best share goes on, such as 16:0.5,32:0.25.",
    ),
]
Enough = Annotated[
    float | None,
    typer.Option(
        "--enough", metavar="SCORE", help="Draw no more candidates once the best has this score."
    ),
]
CandidateCost = Annotated[
    float | None,
    typer.Option(
        "--candidate-cost",
        metavar="COST",
        min=0.0,
        help="Draw no more once one is expected to raise the best score by less than this.",
    ),
]
Wave = Annotated[
    int,
    typer.Option(
        "--wave",
        metavar="N",
        min=1,
        help="Candidates drawn at a time, with --enough or --candidate-cost.",
    ),
]
Floor = Annotated[
    float | None,
    typer.Option(
        "--floor", metavar="SCORE", help="Refuse to answer where the best scores below this."
    ),
]
FloorText = Annotated[
    str | None, typer.Option("--floor-text", metavar="TEXT", help="What is then answered.")
]
Curve = Annotated[
    str | None,
    typer.Option(
        "--curve",
        metavar="FILE",
        help="A curve.json of `accord best-of curve`: warns where quality turns down before N.",
    ),
]


@dataclass(frozen=True, slots=True)
class Loading:
    """How models are loaded."""

    precision: Literal["fp32", "bf16"]
    device: Literal["auto", "cpu", "cuda"]
    trust_remote_code: bool


def read_best_of(
    n: int | None, reward: str | None, given: dict[str, Any], loading: Loading
) -> BestOf | None:
    """What the options ask for; None where they ask for nothing. `given` are the further ones.

    Raises RequestError for options that need another one, SettingsError and DataError for files
    that can't be read.
    """
    if reward is None:
        others = {"best_of": n, **given}
        first = next((key for key, value in others.items() if value is not None), None)
        if first is not None:
            option = _OPTIONS.get(first, "--" + first.replace("_", "-"))
            raise RequestError(
                f"{option} needs something that chooses among candidates. Give --reward: a "
                f"reward model's folder, or a YAML file with `rewards`."
            )
        return None
    from accord.compare.rewards.build import build_reward
    from accord.pipeline.stages.curve import read_curve
    from accord.pipeline.stages.judges import flawed_reward
    from accord.serve.best_of.start import BestOf, best_of_options
    from accord.settings.best_of import read_rewards

    curve = given.get("curve")
    given = {key: value for key, value in given.items() if value is not None}
    if curve is not None:
        given["curve"] = read_curve(curve)
    sources = read_rewards(reward)
    return BestOf(
        best_of_options(n or 1, **given),
        lambda: build_reward(
            sources,
            precision=loading.precision,
            device=loading.device,
            trust_remote_code=loading.trust_remote_code,
            world=flawed_reward,
        ),
    )


def refuse_with_upstream(
    upstream: str | None,
    key: str | None,
    max_rows: int,
    max_waiting: int,
    max_length: int | None,
    without_prefix_cache: bool = False,
) -> None:
    """Raise RequestError for options of a local model beside --upstream, or of one without it."""
    if upstream is None and key is not None:
        raise RequestError("--upstream-key-env is of --upstream. Give that too, or leave it out.")
    if upstream is not None and not upstream.startswith(("http://", "https://")):
        raise RequestError(
            f"--upstream {upstream} is no address. Write it in full, such as "
            f"http://127.0.0.1:8001/v1."
        )
    changed = {
        "--max-rows": max_rows != MAX_ROWS,
        "--max-waiting": max_waiting != MAX_WAITING,
        "--max-length": max_length is not None,
        "--without-prefix-cache": without_prefix_cache,
    }
    first = next((option for option, is_changed in changed.items() if is_changed), None)
    if upstream is not None and first is not None:
        raise RequestError(
            f"{first} is of a model on this machine; the server at {upstream} has its own limits. "
            f"Leave it out."
        )
