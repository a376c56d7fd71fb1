"""From records to token ids. Every cut and every drop is counted, with its reason."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from accord.errors import DataError
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.template import (
    RowDropped,
    earlier_answers,
    encode_prompt,
    encode_response,
    first_token,
    plain_tokens,
    refuse_control_tokens,
)
from accord.records import (
    Comparison,
    Demonstration,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Text,
    labels_from_ranks,
)

LossOn = Literal["response", "assistant", "all"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long rows may be, in tokens, and what happens to longer ones."""

    max_length: int
    max_prompt_length: int | None = None
    long_prompts: Literal["drop", "keep_end"] = "drop"
    long_responses: Literal["cut", "drop"] = "cut"


def encode(
    records: Sequence[Record],
    tokenizer: Any,
    limits: Limits,
    *,
    eos_ids: frozenset[int],
    loss_on: LossOn = "response",
    desirable_from: float | None = None,
) -> tuple[list[PromptGroup], EncodeReport]:
    """Token groups of records, in order. Raises DataError when none is left.

    A response ends with EOS unless it had to be cut. Text longer than the limit is learned in
    pieces, so nothing of it is lost. Prompts without responses come as `encode_prompts`.

    `loss_on` says what of a demonstration is learned: its last answer, each turn of the
    assistant's, or every token but the first. Then what comes before the first token to be
    learned is the group's prompt, under the limits of one, and the rest is its response, of which
    at least that first token stays.

    With `desirable_from` every response has a label: a rating's by its score; a comparison's
    chosen one is desirable and its rejected one is not; of a ranking those are that beat more
    responses than beat them, and those in its very middle are left out.
    """
    report = EncodeReport(records=len(records))
    groups: list[PromptGroup] = []
    for record in records:
        try:
            if isinstance(record, Text):
                groups += _text_groups(record, tokenizer, limits)
            elif isinstance(record, Demonstration):
                group = _demonstration(record, tokenizer, limits, eos_ids, loss_on, report)
                groups.append(group)
            else:
                group = _group(record, tokenizer, limits, eos_ids, desirable_from, report)
                groups.append(group)
        except RowDropped as reason:
            report.drop(str(reason), record.source)
    report.used = len(records) - sum(map(len, report.dropped.values()))
    report.groups = len(groups)
    report.tokens = sum(g.num_tokens for g in groups)
    if not groups:
        counts = Counter({reason: len(where) for reason, where in report.dropped.items()})
        reasons = "; ".join(f"{n} × {reason}" for reason, n in counts.most_common())
        raise DataError(
            f"None of the {len(records)} rows can be used: {reasons or 'there are no rows'}. "
            f"The limits are max_length={limits.max_length} and "
            f"max_prompt_length={limits.max_prompt_length}."
        )
    return groups, report


def fit_prompt(ids: tuple[int, ...], limits: Limits) -> tuple[tuple[int, ...], bool]:
    """The prompt within its limit, and whether it was cut. Raises when it is to be dropped."""
    limit = min(limits.max_prompt_length or limits.max_length, limits.max_length - 1)
    if len(ids) <= limit:
        return ids, False
    if limits.long_prompts == "drop":
        raise RowDropped(f"the prompt has more than {limit} tokens")
    return ids[-limit:], True


def encode_prompts(
    records: Sequence[PromptOnly], tokenizer: Any, limits: Limits
) -> tuple[list[tuple[int, ...]], list[PromptOnly], EncodeReport]:
    """Prompt ids, the records they belong to, and what was dropped. Raises DataError if all."""
    report = EncodeReport(records=len(records))
    found: list[tuple[int, ...]] = []
    kept: list[PromptOnly] = []
    for record in records:
        try:
            refuse_control_tokens(record.prompt, (), tokenizer)
            ids, cut = fit_prompt(encode_prompt(record.prompt, tokenizer), limits)
        except RowDropped as reason:
            report.drop(str(reason), record.source)
            continue
        report.prompts_cut += cut
        found.append(ids)
        kept.append(record)
    if not found:
        raise DataError(f"None of the {len(records)} prompts can be used: {report.summary()}.")
    report.used = report.groups = len(found)
    report.tokens = sum(len(p) for p in found)
    return found, kept, report


def _labels(record: Record, ranks: Sequence[int], desirable_from: float) -> dict[int, bool]:
    """Which responses are desirable, by their numbers; those that are neither left out."""
    if isinstance(record, Rating):
        return {0: record.score >= desirable_from}
    labels = enumerate(labels_from_ranks(ranks))
    return {k: label for k, label in labels if label is not None}


def _responses(record: Record) -> tuple[tuple[str, ...], tuple[int, ...], tuple[bool, ...]]:
    """The responses' texts, their ranks, and which of them ended."""
    if isinstance(record, Rating):
        return (record.response,), (0,), (record.finished,)
    if isinstance(record, Comparison):
        ended = (record.chosen_finished, record.rejected_finished)
        return (record.chosen, record.rejected), (0, 1), ended
    if isinstance(record, Ranking):
        return record.responses, record.ranks, record.finished or (True,) * len(record.ranks)
    raise DataError(f"{record.source}: a {type(record).__name__} has no response to learn from.")


def _cut_to(room: int, ids: tuple[int, ...], limits: Limits) -> tuple[int, ...]:
    """A response within the room that the prompt leaves it. Raises where it is to be dropped."""
    if len(ids) > room and limits.long_responses == "drop":
        raise RowDropped(f"prompt and response have more than {limits.max_length} tokens")
    return ids[:room]


def _demonstration(
    record: Demonstration,
    tokenizer: Any,
    limits: Limits,
    eos_ids: frozenset[int],
    loss_on: LossOn,
    report: EncodeReport,
) -> PromptGroup:
    turns = () if isinstance(record.prompt, str) else record.prompt
    earlier = [turn.content for turn in turns if turn.role == "assistant"]
    learned_texts = [*earlier, record.response] if loss_on == "assistant" else [record.response]
    if not all(text.strip() for text in learned_texts):
        raise RowDropped("a response is empty")
    refuse_control_tokens(record.prompt, (record.response,), tokenizer)
    before = encode_prompt(record.prompt, tokenizer)
    answer, added = encode_response(
        record.prompt, record.response, tokenizer, eos_ids, finished=record.finished
    )
    spans = [(len(before), len(before) + len(answer))]
    if loss_on == "assistant":
        spans = [*earlier_answers(record.prompt, before, tokenizer, eos_ids), *spans]
    elif loss_on == "all":
        spans = [(1, spans[0][1])]
    whole, first = (*before, *answer), max(1, spans[0][0])
    prompt, prompt_cut = fit_prompt(whole[:first], limits)
    response = _cut_to(limits.max_length - len(prompt), whole[first:], limits)
    mask = tuple(
        any(start <= place < end for start, end in spans)
        for place in range(first, first + len(response))
    )
    cut = len(whole) - first - len(response)
    report.prompts_cut += prompt_cut
    report.responses_cut += cut > 0
    report.eos_lost += cut > 0 and record.finished
    report.eos_added += added and not cut
    report.unfinished += not record.finished
    report.answers_not_learned += loss_on == "response" and bool(earlier)
    learned = () if all(mask) else (mask,)
    return PromptGroup(prompt, (response,), (0,), source=record.source, loss_mask=learned)


def _group(
    record: Record,
    tokenizer: Any,
    limits: Limits,
    eos_ids: frozenset[int],
    desirable_from: float | None,
    report: EncodeReport,
) -> PromptGroup:
    assert not isinstance(record, Text)
    texts, ranks, finished = _responses(record)
    if len(ranks) > 1 and len(set(ranks)) == 1:
        raise RowDropped("all its responses are tied")
    labels: dict[int, bool] = {}
    if desirable_from is not None:
        labels = _labels(record, ranks, desirable_from)
        neither = len(texts) - len(labels)
        texts = tuple(texts[k] for k in labels)
        ranks = tuple(ranks[k] for k in labels)
        finished = tuple(finished[k] for k in labels)
    if not all(text.strip() for text in texts):
        raise RowDropped("a response is empty")
    refuse_control_tokens(record.prompt, texts, tokenizer)
    prompt, prompt_cut = fit_prompt(encode_prompt(record.prompt, tokenizer), limits)
    room = limits.max_length - len(prompt)
    encoded, cut, lost, added = [], 0, 0, 0
    for text, ended in zip(texts, finished, strict=True):
        ids, eos_added = encode_response(record.prompt, text, tokenizer, eos_ids, finished=ended)
        kept = _cut_to(room, ids, limits)
        cut += len(kept) < len(ids)
        lost += ended and len(kept) < len(ids)
        added += eos_added and len(kept) == len(ids)
        encoded.append(kept)
    if len(encoded) > 1 and all(ids == encoded[0] for ids in encoded):
        raise RowDropped("its responses are equal" + (" after the cut" if cut else ""))
    report.prompts_cut += prompt_cut
    report.responses_cut += cut
    report.eos_lost += lost
    report.unfinished += finished.count(False)
    report.eos_added += added
    if labels:
        report.desirable += sum(labels.values())
        report.undesirable += len(labels) - sum(labels.values())
        report.neither += neither
    margin = record.margin if isinstance(record, Comparison) else None
    group = PromptGroup(
        prompt, tuple(encoded), ranks, margin, record.source, tuple(labels.values())
    )
    if not labels:
        apart = sum(one != other for one, other in itertools.combinations(ranks, 2))
        report.equal_pairs += apart - len(group.preference_pairs)
    return group


def _text_groups(record: Text, tokenizer: Any, limits: Limits) -> list[PromptGroup]:
    ids = plain_tokens(tokenizer, record.text)
    if not ids:
        raise RowDropped("the text is empty")
    ids.append(tokenizer.eos_token_id)
    first, room = first_token(tokenizer), limits.max_length - 1
    pieces = [tuple(ids[i : i + room]) for i in range(0, len(ids), room)]
    return [PromptGroup((first,), (piece,), (0,), source=record.source) for piece in pieces]
