"""Short recipes to start from: a method on a user's own model and data, the rest by default."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import fill

from accord.errors import RequestError
from accord.settings.lora import LORA_RATE_FACTOR
from accord.settings.reading.suggest import did_you_mean, listed
from accord.settings.stage_kinds import METHOD_SETTINGS, method_summary

_PLAIN = re.compile(r"[A-Za-z0-9./_-]+")
_ROWS = {
    "sft": '{"prompt": …, "completion": …} or {"messages": […]}',
    "reward": '{"prompt": …, "chosen": …, "rejected": …}',
    "kto": '{"prompt": …, "completion": …, "label": true}, or pairs',
    **dict.fromkeys(("dpo", "ipo", "orpo", "simpo"), '{"prompt": …, "chosen": …, "rejected": …}'),
}
_PROMPTS = '{"prompt": …}'
_NO_REWARD = (
    "needs a reward: name a reward model with --reward-model PATH (`accord init reward` trains "
    "one). Rules, functions and AI judges as rewards: docs/methods.md."
)


@dataclass(frozen=True, slots=True)
class Start:
    """What a user names: one model (an arena several), a data set, and perhaps a reward model."""

    models: tuple[str, ...]
    data: str
    reward_model: str | None = None

    @property
    def model(self) -> str:
        return _yaml(self.models[0])


def starter_recipe(kind: str, start: Start, *, file: str) -> str:
    """A short recipe with comments, as YAML text. Raises RequestError where something is missing.

    `kind` is a training method, or one of STARTERS. `file` is the recipe's own name, for the
    comments.
    """
    builder = STARTERS.get(kind)
    if builder is None:
        raise RequestError(
            f"There is no recipe to start {kind!r}.{did_you_mean(kind, STARTERS)} "
            f"There are {listed(STARTERS)}."
        )
    if kind != "arena" and len(start.models) > 1:
        raise RequestError(f"`accord init {kind}` takes one --model.")
    title, body = builder(kind, start)
    return (
        f"{fill(title, 98, initial_indent='# ', subsequent_indent='# ')}\n"
        f"# Look first:   accord plan {file}    (what it needs, and nothing runs)\n"
        f"# Run, resume:  accord run {file}\n"
        f"# A setting is changed here, or as in: accord run {file} seed=1\n"
        f"# All settings: docs/settings.md\n"
        f"output_dir: runs/{kind}\n"
        f"stages:\n{body}"
    )


def _training(kind: str, start: Start) -> tuple[str, str]:
    """Rows are split, a model is trained on them and compared with its start."""
    online = kind not in _ROWS
    if online and start.reward_model is None:
        raise RequestError(f"`{kind}` {_NO_REWARD}")
    rows = _ROWS.get(kind, _PROMPTS)
    summary = method_summary(METHOD_SETTINGS[kind])
    passes = """
    eval_steps: 50
    num_train_epochs: 1          # passes over the rows"""
    answers = f"""    reward_model: {_yaml(str(start.reward_model))}
    max_new_tokens: 128          # of a response
"""
    train = f"""
  - stage: train
    method: {kind}
    model: {start.model}
    dataset: $split/train.jsonl
    eval_dataset: $split/test.jsonl{"" if online else passes}
    learning_rate: {_peak_rate(kind)} # raise it where the report says: not learned
    lora: on                     # trains an adapter; without this line, all weights
    precision: bf16
{answers if online else ""}"""
    if kind == "reward":
        return f"A reward model, from {start.data}.", _split(start, rows) + train + _REPORT
    return (
        f"{kind.upper()}: {summary}.",
        _split(start, rows) + train + _comparison(kind, start),
    )


def _peak_rate(kind: str) -> str:
    """A method's default learning rate for adapters, as wide as the recipe's first column."""
    default = METHOD_SETTINGS[kind].model_fields["learning_rate"].default
    return f"{default * LORA_RATE_FACTOR:<13.1e}"


def _split(start: Start, rows: str) -> str:
    return f"""
  - stage: split                 # holds out every tenth prompt
    dataset: {_yaml(start.data)}
    # Rows: {rows}
    # Check them first: accord data check FILE
"""


def _comparison(kind: str, start: Start) -> str:
    """Both models answer held-out prompts, and the report shows the answers side by side."""
    samples = "".join(
        f"""
  - stage: sample
    name: {name}
    model: {model}
    model_name: {shown}
    dataset: $split/test.jsonl
    max_prompts: 32
    num_responses: 1
    temperature: 1.0             # KL is measured at 1; lower is less random
    precision: bf16
"""
        for name, model, shown in (
            ("before", start.model, "start"),
            ("after", f"${kind}/model", kind),
        )
    )
    scorer = start.reward_model
    reward = f"    reward_model: {_yaml(scorer)}\n" if scorer else ""
    return f"""{samples}
  - stage: evaluate              # KL from the start, length, diversity
    contestants: &models
      - {{name: start, responses: $before/responses.jsonl, model: {start.model}}}
      - {{name: {kind}, responses: $after/responses.jsonl, model: ${kind}/model, train: ${kind}}}
    reference: {start.model}
{reward}{_REPORT}    contestants: *models
"""


_REPORT = """
  - stage: report                # report.html in the folder of the run
    run: $run
    output_dir: $run
"""


def _iterate(kind: str, start: Start) -> tuple[str, str]:
    if start.reward_model is None:
        raise RequestError(f"`iterate` {_NO_REWARD}")
    return (
        "Rounds: the model answers, a judge compares its answers, DPO learns from them.",
        f"""
  - stage: iterate
    model: {start.model}
    dataset: {_yaml(start.data)}            # rows with prompts, such as {_PROMPTS}
    rounds: 3
    prompts_per_round: 200       # without it, every round uses all prompts
    judge: {_judge(start)}
    train: {{method: dpo, lora: on, precision: bf16}}
{_REPORT}""",
    )


def _compare(kind: str, start: Start) -> tuple[str, str]:
    return (
        "Preferences: the model answers each prompt four times, and a judge compares the answers.",
        f"""
  - stage: sample
    model: {start.model}
    dataset: {_yaml(start.data)}            # rows with prompts, such as {_PROMPTS}
    num_responses: 4
    precision: bf16

  - stage: compare               # store.db: train on it with dataset=runs/judge/compare/store.db
    responses: [$sample/responses.jsonl]
    judge: {_judge(start)}
    form: best_worst             # the best and the worst of the four, as a pair
""",
    )


def _revise(kind: str, start: Start) -> tuple[str, str]:
    return (
        "A constitution: the model criticises and revises its own answers, a judge compares both, "
        "and SFT learns from the revisions.",
        f"""
  - stage: sample
    model: {start.model}
    dataset: {_yaml(start.data)}            # rows with prompts, such as {_PROMPTS}
    num_responses: 1
    precision: bf16

  - stage: revise                # sft.jsonl, and preferences in store.db
    responses: [$sample/responses.jsonl]
    constitution: [harmless, helpful]        # honest; or files of your own
    rounds: 2
    reviser: {{kind: local, model: {start.model}, precision: bf16}}
    judge: {_judge(start)}

  - stage: train
    method: sft
    model: {start.model}
    dataset: $revise/sft.jsonl
    learning_rate: {_peak_rate("sft")} # raise it where the report says: not learned
    lora: on                     # trains an adapter; without this line, all weights
    precision: bf16
""",
    )


def _arena(kind: str, start: Start) -> tuple[str, str]:
    if len(start.models) < 2:
        raise RequestError("`arena` compares models: give --model twice or more often.")
    names = [f"model-{i}" for i in range(1, len(start.models) + 1)]
    samples = "".join(
        f"""
  - stage: sample
    name: {name}
    model: {_yaml(model)}
    model_name: {name}
    dataset: {_yaml(start.data)}            # rows with prompts, the same for all models
    num_responses: 1
    precision: bf16
"""
        for name, model in zip(names, start.models, strict=True)
    )
    contestants = "".join(
        f"      - {{name: {name}, responses: ${name}/responses.jsonl}}\n" for name in names
    )
    return (
        "An arena: models answer the same prompts, and a judge compares their answers.",
        f"""{samples}
  - stage: arena
    contestants: &models
{contestants}    judge: {_judge(start)}
{_REPORT}    contestants: *models
    ratings: $arena/ratings.json
""",
    )


def _judge(start: Start) -> str:
    if start.reward_model is not None:
        return f"{{kind: reward_model, model: {_yaml(start.reward_model)}}}"
    return (
        "{kind: endpoint, base_url: 'http://127.0.0.1:8000/v1', model: NAME}"
        "  # any OpenAI-compatible server"
    )


def _yaml(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


STARTERS: Mapping[str, Callable[[str, Start], tuple[str, str]]] = {
    **dict.fromkeys(METHOD_SETTINGS, _training),
    "iterate": _iterate,
    "judge": _compare,
    "revise": _revise,
    "arena": _arena,
}
"""The kinds of `accord init`: the training methods, rounds, revision, comparisons by a judge."""
