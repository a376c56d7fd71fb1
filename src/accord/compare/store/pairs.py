"""Pairs of responses for a judge: prompts with their responses, and the verdicts there are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import sqlalchemy as sa

from accord.compare.store.inserts import CHUNK
from accord.compare.store.schema import JUDGES, PROMPTS, RESPONSES, VERDICT_ITEMS, VERDICTS
from accord.reasoning import whole_text
from accord.records import Prompt, prompt_from_json


@dataclass(frozen=True, slots=True)
class ResponseText:
    """A response to be judged; `opened` is what the rendered prompt already wrote of it."""

    id: int
    text: str
    finished: bool
    opened: str = ""

    @property
    def whole(self) -> str:
        """The text with the tag that opened its reasoning."""
        return whole_text(self.text, self.opened)


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    """A prompt with its responses in the order of their ids."""

    id: int
    prompt: Prompt
    responses: tuple[ResponseText, ...]


@dataclass(frozen=True, slots=True)
class StoredVote:
    """The latest verdict of an annotator on a pair and criterion; `first` is the id of the
    response that `outcome` calls `a`, `judge` a fingerprint's digest."""

    item: str
    criterion: str | None
    annotator: str
    outcome: str
    first: int
    source: str | None
    judge: str | None


def select_models(connection: sa.Connection) -> list[str]:
    """The models that have responses, sorted."""
    return sorted(connection.scalars(sa.select(RESPONSES.c.model).distinct()))


def select_answered(
    connection: sa.Connection, after: int, limit: int, models: Collection[str]
) -> list[AnsweredPrompt]:
    """The next prompts behind the id `after`, up to `limit`, with the responses of these models, or
    of all: without them, a prompt is none of them."""
    chosen = sa.select(RESPONSES.c.prompt_id).where(RESPONSES.c.prompt_id > after)
    of_models = RESPONSES.c.model.in_(list(models)) if models else sa.true()
    ids = connection.scalars(
        chosen.where(of_models).distinct().order_by(RESPONSES.c.prompt_id).limit(limit)
    ).all()
    prompts = {
        row.id: row for row in connection.execute(sa.select(PROMPTS).where(PROMPTS.c.id.in_(ids)))
    }
    query = (
        sa.select(RESPONSES)
        .where(RESPONSES.c.prompt_id.in_(ids), of_models)
        .order_by(RESPONSES.c.prompt_id, RESPONSES.c.id)
    )
    groups = groupby(connection.execute(query), key=lambda row: row.prompt_id)
    return [
        AnsweredPrompt(
            id_,
            prompt_from_json(prompts[id_].content),
            tuple(ResponseText(row.id, row.text, row.finished, row.opened) for row in rows),
        )
        for id_, rows in groups
    ]


def select_pair_votes(connection: sa.Connection, items: Sequence[str]) -> list[StoredVote]:
    """The latest verdict of each annotator on each of these pairs and each criterion; an item is
    named as `item_name` does."""
    latest: dict[tuple[str, str, str | None], StoredVote] = {}
    for start in range(0, len(items), CHUNK):
        query = (
            sa.select(
                VERDICTS.c.item,
                VERDICTS.c.criterion,
                VERDICTS.c.annotator,
                VERDICTS.c.outcome,
                VERDICTS.c.source,
                VERDICT_ITEMS.c.response_id,
                JUDGES.c.digest,
            )
            .join(VERDICT_ITEMS, VERDICT_ITEMS.c.verdict_id == VERDICTS.c.id)
            .join(JUDGES, JUDGES.c.id == VERDICTS.c.judge_id, isouter=True)
            .where(
                VERDICTS.c.item.in_(items[start : start + CHUNK]),
                VERDICTS.c.kind == "pair",
                VERDICT_ITEMS.c.slot == 0,
            )
            .order_by(VERDICTS.c.id)
        )
        for row in connection.execute(query):
            latest[row.item, row.annotator, row.criterion] = StoredVote(
                row.item,
                row.criterion,
                row.annotator,
                row.outcome,
                row.response_id,
                row.source,
                row.digest,
            )
    return list(latest.values())


def different_pairs(
    responses: Iterable[ResponseText],
) -> Iterator[tuple[ResponseText, ResponseText]]:
    """All pairs of responses, of those with the same text only the first: as people are asked."""
    first: dict[str, ResponseText] = {}
    for response in responses:
        first.setdefault(response.whole, response)
    different = list(first.values())
    for i, a in enumerate(different):
        for b in different[i + 1 :]:
            yield a, b
