"""The commands for a single stage: `accord train`, `iterate`, `sample`, `revise` and `arena`."""

from __future__ import annotations

from textwrap import fill
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from accord.cli.stage_command import Config, Overrides, run_single_stage

commands = typer.Typer()

METHODS = "METHODS"
"""The paragraph in the help of `accord train` that the list of methods replaces."""
LIST_WIDTH = 98  # columns: the list is verbatim, and indented by two in at most 100


class TrainCommand(TyperCommand):
    """Lists the methods when the help is shown, and not before: the list needs pydantic."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        text = self.help or ""
        self.help = text.replace(METHODS, f"\b\n{_method_list()}")
        super().format_help_text(ctx, formatter)
        self.help = text


def _method_list() -> str:
    from accord.settings.stage_kinds import METHOD_SETTINGS, method_summary

    width = max(map(len, METHOD_SETTINGS)) + 2
    rows = [f"{name:<{width}}{method_summary(c)}" for name, c in METHOD_SETTINGS.items()]
    return "\n".join(fill(row, LIST_WIDTH, subsequent_indent=" " * width) for row in rows)


@commands.command(cls=TrainCommand)
def train(
    method: Annotated[
        str,
        typer.Argument(metavar="METHOD", help="One of the methods above.", show_default=False),
    ],
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Train a model by one method.

    METHODS

    `output_dir` then contains model/ (which loads in transformers or peft), metrics.jsonl,
    checkpoints/ and manifest.json. All settings: docs/settings.md.

    \b
    Example:
      accord train dpo model=runs/sft/model dataset=pairs.jsonl output_dir=runs/dpo beta=0.1
    \f
    `metrics.jsonl` has a row for each step (a loss that is not finite is null), and `manifest.json`
    the settings, the seed, the digests of the inputs, versions, the machine, and how the run ended.
    """
    from accord.settings.recipe import find_method

    run_single_stage("train", overrides, config, method=find_method(method))


@commands.command()
def iterate(overrides: Overrides = None, config: Config = None) -> None:
    """Train in rounds on a model's own responses.

    Each round samples responses from the current model, has a judge compare them, and trains on
    the verdicts: iterative DPO, or with train.method=rejection_sampling SFT on the best responses.
    model/ in `output_dir` is the last round's model, and rounds.json contains the results of each
    round. Raising `rounds` extends a finished run.

    \b
    Example:
      accord iterate model=runs/sft/model dataset=prompts.jsonl output_dir=runs/rounds rounds=3
    \f
    ```yaml
    # rounds.yaml: accord iterate --config rounds.yaml
    model: runs/sft/model
    dataset: prompts.jsonl
    output_dir: runs/rounds
    rounds: 3
    prompts_per_round: 2000              # without it every round uses all prompts
    judge: {kind: reward_model, model: runs/reward/model}
    reference: fixed                     # or moving: the model that the round starts from
    keep_data: round                     # or all: the verdicts of earlier rounds as well
    train: {method: dpo, beta: 0.1, learning_rate: 1.0e-6}
    eval_dataset: unseen.jsonl           # prompts on which each round's model is evaluated
    ```

    `train.method` is `dpo`, `ipo`, `kto`, `orpo`, `simpo`, or `rejection_sampling`: SFT on the best
    of each prompt's responses. What a fixed and a moving reference optimise, and how a vLLM server
    can sample the responses: [methods.md](methods.md#rounds).

    | in `output_dir` | content |
    |---|---|
    | `model/` | the last round's model |
    | `rounds.json` | for each round the models, responses and verdicts that it used, and measures \
of its model: reward, rating and wins against the first model's answers, KL from the first model, \
length, share of finished responses, distinct-2; `accord report` draws it |
    | `round-N/sample`, `compare`, `train` | the round's responses, store of verdicts and training |
    | `round-N/answers`, `evaluate`, `arena` | its model's answers to `eval_dataset`, and their \
measures; in `round-0` those of the first model |

    Each of these is a stage as in a recipe: after an interruption, or if it was killed, the same
    command resumes where it stopped, with results that are equal to the bit. `rounds=5` after 3
    resumes with round 4. In a recipe it is `stage: iterate`; `accord run iterate` runs one on the
    embedded world.

    Without `eval_dataset` the model is evaluated on the prompts of its training, which overstates
    its quality.
    """
    run_single_stage("iterate", overrides, config)


@commands.command()
def sample(overrides: Overrides = None, config: Config = None) -> None:
    """Sample a model's responses to prompts.

    `num_responses` responses to each prompt are written to responses.jsonl in `output_dir`.

    \b
    Example:
      accord sample model=runs/sft/model dataset=prompts.jsonl output_dir=runs/answers
    \f
    With `sampler.kind=vllm sampler.url=http://127.0.0.1:8000` a vLLM server samples (0.10.2 or
    later), and of `model` only the tokenizer is loaded. If `model` is an adapter, the server must
    serve its base; the adapter is loaded into the server for as long as it samples. A server with
    `VLLM_SERVER_DEV_MODE=1` (0.32 or later) loads the whole weights of another model. Start the
    server with `--logprobs-mode processed_logprobs` for temperatures other than 1. To load
    adapters it needs `--enable-lora`, a `--max-lora-rank` of at least their rank, and the
    environment variable `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`. Responses of a server are not
    reproducible: no seed is sent to it. With `sampler.mode=colocate` vLLM runs in this process.
    """
    run_single_stage("sample", overrides, config)


@commands.command()
def revise(overrides: Overrides = None, config: Config = None) -> None:
    """Criticise and revise responses by a constitution.

    Each response is examined by a principle drawn at random, and revised where the critique finds
    something; a judge compares the revision with the original. `output_dir` then contains
    revisions.jsonl (all that was written), conversations.jsonl (Hugging Face's constitutional
    columns), sft.jsonl, store.db (preferences, where there is a judge) and revise.json (counts).

    \b
    Example:
      accord revise --config revise.yaml output_dir=runs/revised
    \f
    ```yaml
    # revise.yaml
    responses: runs/answers/responses.jsonl   # or dataset: prompts that the reviser answers first
    constitution: [harmless, helpful]         # honest; or files
    rounds: 2
    reviser: {kind: endpoint, base_url: http://127.0.0.1:8000/v1, model: NAME}
    judge: {kind: endpoint, base_url: http://127.0.0.1:8000/v1, model: JUDGE}
    ```

    Without `judge` no preference is written, unless `assume_better=true` says that each revision
    counts as better. Interrupted or killed, the same command resumes. What is dropped and why, and
    what it gives on the embedded world: [constitution.md](constitution.md).
    """
    run_single_stage("revise", overrides, config)


@commands.command()
def arena(overrides: Overrides = None, config: Config = None) -> None:
    """Rate models by comparing their responses.

    `contestants` lists the models, each with a name and its responses.jsonl on the same prompts; a
    judge compares the responses. ratings.json (Bradley-Terry strengths on the Elo scale, with
    intervals) and store.db (every verdict) are written to `output_dir`.

    \b
    Example:
      accord arena --config arena.yaml output_dir=runs/arena
    \f
    ```yaml
    # arena.yaml
    contestants:
      - {name: sft, responses: runs/sft-answers/responses.jsonl}
      - {name: dpo, responses: runs/dpo-answers/responses.jsonl}
    judge: {kind: reward_model, model: runs/reward/model}
    ```

    With `judge: {kind: endpoint, base_url: http://127.0.0.1:8000/v1, model: NAME}` a language model
    compares each pair in both orders ([methods.md](methods.md#an-ai-judge)). `counts.json` contains
    the number of pairs without a verdict.

    `battles=FILE` rates given comparisons: a file with `model_a`, `model_b` and `winner`, or a
    preference store. ratings.json also has win rates with paired tests, rates at equal length,
    ratings at equal style (`style`) and by category (`category`), what is not distinguished, and
    which pairs to compare next: [ratings.md](ratings.md).
    """
    run_single_stage("arena", overrides, config)
