"""A stored verdict as rows of the formats that are exported."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.compare.store.convert import Judged
from accord.compare.store.rows import JudgedResponse, StoredVerdict
from accord.data.imports.verdicts import write_prompt
from accord.records import Prompt, labels_from_ranks, prompt_json

Row = dict[str, Any]
DROPPED = {
    "tie": "ties",
    "both_bad": "pairs of which both are bad",
    "skip": "skips",
    "flag": "flags",
    "undecided": "undecided pairs",
}
PAIR_RANKS = {"a": (0, 1), "b": (1, 0), "tie": (0, 0), "both_bad": (0, 0)}
SHARED = ("annotator", "criterion", "round", "source")
"""Fields of a verdict that every format has a column for."""

DETAILS = (
    "strength",
    "probability",
    "reason",
    "comment",
    "tags",
    "seconds",
    "guideline",
    "view",
    "session",
)
"""Fields of a verdict that only `verdicts` and `csv` have columns for, and `pairs` the first."""


class NotHeld(Exception):  # noqa: N818 - no error: the format has no row for the verdict
    """A format has no row for a verdict, because of its argument."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A verdict with its prompt and its responses in their order."""

    verdict: StoredVerdict
    prompt: Prompt
    responses: tuple[JudgedResponse, ...]

    @classmethod
    def of(cls, verdict: StoredVerdict, judged: Judged) -> Exported:
        responses = tuple(judged.responses[item.response_id] for item in verdict.items)
        return cls(verdict, judged.prompts[verdict.prompt_id], responses)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the responses, 0 best. Raises NotHeld where there is no preference."""
        verdict = self.verdict
        if verdict.kind == "pair" and verdict.outcome in PAIR_RANKS:
            return PAIR_RANKS[verdict.outcome]
        if verdict.kind == "ranking" and verdict.outcome is None:
            return tuple(item.rank or 0 for item in verdict.items)
        raise NotHeld(DROPPED.get(verdict.outcome or "", "ratings of one response"))

    @property
    def shared(self) -> Row:
        """The columns that every format has."""
        return {name: getattr(self.verdict, name) for name in SHARED}


def pair_rows(item: Exported) -> Iterator[Row]:
    """TRL's preference rows: a pair's, or all pairs of a ranking."""
    ranks = item.ranks
    if len(set(ranks)) == 1:
        raise NotHeld(DROPPED[item.verdict.outcome or "tie"])
    prompt = _prompt_columns(item.prompt)
    for i, j in itertools.permutations(range(len(ranks)), 2):
        if ranks[i] < ranks[j]:
            chosen, rejected = item.responses[i], item.responses[j]
            yield {
                **prompt,
                "chosen": _answer(item.prompt, chosen),
                "rejected": _answer(item.prompt, rejected),
                "margin": item.verdict.strength or 0,
                "finished": [chosen.finished, rejected.finished],
                "opened": [chosen.opened, rejected.opened],
                "chosen_model": chosen.model,
                "rejected_model": rejected.model,
                **item.shared,
            }


def kto_rows(item: Exported, desirable_from: float) -> Iterator[Row]:
    """TRL's unpaired rows: each response with whether it is desirable."""
    verdict = item.verdict
    if verdict.kind == "rating" and verdict.outcome is None:
        labels: list[bool | None] = [(verdict.items[0].score or 0.0) >= desirable_from]
    elif verdict.outcome == "both_bad":
        labels = [False, False]
    else:
        labels = labels_from_ranks(item.ranks)
    if all(label is None for label in labels):
        raise NotHeld(DROPPED["tie"])
    for response, label in zip(item.responses, labels, strict=True):
        if label is not None:
            yield {
                **_prompt_columns(item.prompt),
                "completion": _answer(item.prompt, response),
                "label": label,
                "finished": response.finished,
                "opened": response.opened,
                "model": response.model,
                **item.shared,
            }


def ranking_rows(item: Exported) -> Iterator[Row]:
    """A row with `responses` and `ranks`; of a pair too."""
    yield {
        **_prompt_columns(item.prompt),
        "responses": [_answer(item.prompt, response) for response in item.responses],
        "ranks": list(item.ranks),
        "both_bad": item.verdict.outcome == "both_bad",
        "finished": [response.finished for response in item.responses],
        "opened": [response.opened for response in item.responses],
        "models": [response.model for response in item.responses],
        **item.shared,
    }


def verdict_rows(item: Exported) -> Iterator[Row]:
    """A row with everything that the verdict says."""
    verdict = item.verdict
    scores = [i.score for i in verdict.items]
    yield {
        "id": verdict.id,
        "kind": verdict.kind,
        "prompt": prompt_json(item.prompt),
        "responses": [response.text for response in item.responses],
        "models": [response.model for response in item.responses],
        "finished": [response.finished for response in item.responses],
        "opened": [response.opened for response in item.responses],
        "outcome": verdict.outcome,
        "ranks": [i.rank for i in verdict.items] if verdict.kind == "ranking" else None,
        "score": scores[0] if verdict.kind == "rating" else None,
        "shown": _list_or_none([i.shown for i in verdict.items]),
        **item.shared,
        **{name: getattr(verdict, name) for name in DETAILS if name != "tags"},
        "tags": list(verdict.tags),
        "judge": verdict.judge,
        "created": verdict.created,
    }


def flat(row: Mapping[str, Any], cell: Callable[[Any], str]) -> Row:
    """A row of `verdicts` with text in every cell, for CSV."""
    return {
        key: write_prompt(value) if key == "prompt" else "" if value is None else cell(value)
        for key, value in row.items()
    }


def _list_or_none(values: Sequence[Any]) -> list[Any] | None:
    return None if any(value is None for value in values) else list(values)


def _prompt_columns(prompt: Prompt) -> Row:
    """`prompt`, and what a chat template receives beside it, such as `tools`."""
    value = prompt_json(prompt)
    if isinstance(value, dict):
        rest = {key: item for key, item in value.items() if key != "messages"}
        return {"prompt": value["messages"], **rest}
    return {"prompt": value}


def _answer(prompt: Prompt, response: JudgedResponse) -> str | list[dict[str, str]]:
    """The response in the form of its prompt: text, or a list of one turn."""
    if isinstance(prompt, str):
        return response.text
    return [{"role": "assistant", "content": response.text}]
