"""From records to token ids. Every truncated and every dropped row is counted, with its reason."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from accord.errors import DataError, SettingsError
from accord.lm.packing import PromptGroup
from accord.lm.tokens.answers import EncodedAnswers, encode_answers, find_assistant_spans
from accord.lm.tokens.encode_report import EncodeReport
from accord.lm.tokens.record_responses import desirability, preference_label, read_responses
from accord.lm.tokens.render import UnusableRow
from accord.lm.tokens.render_turns import unwritten_fields
from accord.lm.tokens.split_text import split_text
from accord.lm.tokens.template import (
    encode_prompt,
    is_plain_prompt,
    refuse_control_tokens,
    render_answered,
)
from accord.records import (
    Demonstration,
    PromptOnly,
    Record,
    Text,
)
from accord.runs.activity import with_activity

LossOn = Literal["response", "assistant", "all"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits in tokens on prompt and response together and on the prompt, and what happens to
    longer rows."""

    max_length: int
    max_prompt_length: int | None = None
    long_prompts: Literal["drop", "keep_end"] = "drop"
    long_responses: Literal["cut", "drop"] = "drop"


UNLIMITED = 1 << 30  # positions of a model whose configuration has no limit


def sampling_limits(
    max_length: int | None, max_new_tokens: int, name: str, max_prompt_length: int | None = None
) -> Limits:
    """Limits of prompts that leave room for a response of `max_new_tokens` in the `max_length`
    positions of the model called `name`. Raises SettingsError where none is left."""
    room = UNLIMITED if max_length is None else max_length - max_new_tokens
    if room < 1:
        raise SettingsError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the {max_length} "
            f"positions of {name}. Lower max_new_tokens."
        )
    return Limits(room + 1, max_prompt_length)


def encode(
    records: Sequence[Record],
    tokenizer: Any,
    limits: Limits,
    *,
    eos_ids: frozenset[int],
    loss_on: LossOn = "response",
    desirable_from: float | None = None,
) -> tuple[list[PromptGroup], EncodeReport]:
    """Token groups of records, in order. Raises DataError when no row can be used.

    A response ends with EOS unless it was truncated. Text longer than the limit is split into
    several groups, so none of it is lost. For prompts without responses use `encode_prompts`.

    `loss_on` sets which tokens of a demonstration are trained on: its last response, every
    assistant turn, or every token but the first. The group's prompt then is everything before the
    first of these tokens, under the limits of a prompt, and its response is the rest, of which at
    least that first token remains.

    With `desirable_from` every response has a label: a rating's by its score; a comparison's
    chosen one is desirable and its rejected one is not; of a ranking those are that beat more
    responses than beat them, and those with equal counts are left out.
    """
    encoding = Encoding(tokenizer, limits, eos_ids, loss_on, desirable_from)
    groups, report = encoding.encode(with_activity(records, "tokenising", len(records)))
    check_some_used(report, limits)
    return groups, report


@dataclass(frozen=True, slots=True)
class Encoding:
    """How records become token groups: see `encode`."""

    tokenizer: Any
    limits: Limits
    eos_ids: frozenset[int]
    loss_on: LossOn = "response"
    desirable_from: float | None = None

    def encode(self, records: Iterable[Record]) -> tuple[list[PromptGroup], EncodeReport]:
        """The groups of the records that can be used, of which there may be none."""
        report, groups = EncodeReport(), list[PromptGroup]()
        for record in records:
            report.records += 1
            try:
                groups += self._groups(record, report)
                report.used += 1
                if not isinstance(record, Text):
                    report.plain_prompts += is_plain_prompt(record.prompt, self.tokenizer)
            except UnusableRow as reason:
                report.drop(str(reason), record.source)
        report.groups = len(groups)
        report.tokens = sum(g.num_tokens for g in groups)
        return groups, report

    def _groups(self, record: Record, report: EncodeReport) -> list[PromptGroup]:
        if isinstance(record, Text):
            return split_text(record, self.tokenizer, self.limits.max_length, self.eos_ids)
        if isinstance(record, Demonstration):
            return [
                _encode_demonstration(
                    record, self.tokenizer, self.limits, self.eos_ids, self.loss_on, report
                )
            ]
        return [
            _encode_responses(
                record, self.tokenizer, self.limits, self.eos_ids, self.desirable_from, report
            )
        ]


def check_some_used(report: EncodeReport, limits: Limits) -> None:
    """Raise DataError, with the reasons, where no record can be used."""
    if report.groups:
        return
    counts = Counter({reason: len(sources) for reason, sources in report.dropped.items()})
    reasons = "; ".join(f"{n} × {reason}" for reason, n in counts.most_common())
    raise DataError(
        f"None of the {report.records} rows can be used: {reasons or 'there are no rows'}. "
        f"The limits are max_length={limits.max_length} and "
        f"max_prompt_length={limits.max_prompt_length}."
    )


def truncate_prompt(
    ids: tuple[int, ...], limits: Limits, response_tokens: int = 1
) -> tuple[tuple[int, ...], bool]:
    """The prompt within its limit, and whether it was truncated. Raises UnusableRow where long
    prompts are dropped.

    Where a response of `response_tokens` may not be cut, the end of a long prompt leaves room for
    it, if there is any.
    """
    limit = min(limits.max_prompt_length or limits.max_length, limits.max_length - 1)
    if limits.long_prompts == "drop":
        if len(ids) > limit:
            raise UnusableRow(f"the prompt has more than {limit} tokens")
        return ids, False
    if limits.long_responses == "drop" and response_tokens < limits.max_length:
        limit = min(limit, limits.max_length - response_tokens)
    return ids[-limit:], len(ids) > limit


def encode_prompts(
    records: Sequence[PromptOnly], tokenizer: Any, limits: Limits
) -> tuple[list[tuple[int, ...]], list[PromptOnly], EncodeReport]:
    """Prompt ids, the records they belong to, and a report. Raises DataError when no prompt can
    be used."""
    report = EncodeReport(records=len(records))
    prompts: list[tuple[int, ...]] = []
    used: list[PromptOnly] = []
    for record in with_activity(records, "tokenising", len(records)):
        try:
            refuse_control_tokens(record.prompt, (), tokenizer)
            report.leave_out(unwritten_fields(record.prompt, tokenizer))
            ids, cut = truncate_prompt(encode_prompt(record.prompt, tokenizer), limits)
        except UnusableRow as reason:
            report.drop(str(reason), record.source)
            continue
        report.prompts_cut += cut
        report.plain_prompts += is_plain_prompt(record.prompt, tokenizer)
        prompts.append(ids)
        used.append(record)
    if not prompts:
        raise DataError(f"None of the {len(records)} prompts can be used: {report.summary()}.")
    report.used = report.groups = len(prompts)
    report.tokens = sum(len(p) for p in prompts)
    return prompts, used, report


def _truncate_response(max_tokens: int, ids: tuple[int, ...], limits: Limits) -> tuple[int, ...]:
    """A response of at most `max_tokens`. Raises UnusableRow where long responses are dropped."""
    if len(ids) > max_tokens and limits.long_responses == "drop":
        raise UnusableRow(
            f"prompt and response have more than {limits.max_length} tokens, so the response would "
            f"lose its end (long_responses=cut learns its beginning)"
        )
    return ids[:max_tokens]


def _encode_demonstration(
    record: Demonstration,
    tokenizer: Any,
    limits: Limits,
    eos_ids: frozenset[int],
    loss_on: LossOn,
    report: EncodeReport,
) -> PromptGroup:
    turns = () if isinstance(record.prompt, str) else record.prompt
    earlier = [turn for turn in turns if turn.role == "assistant" and turn.learn]
    learned = [(record.response, record.fields)] if record.learn else []
    if loss_on == "assistant":
        learned += [(turn.content, turn.fields) for turn in earlier]
    if not learned and loss_on != "all":
        raise UnusableRow("its answers are marked as not to be learned")
    if not all(text.strip() or fields for text, fields in learned):
        raise UnusableRow("a response is empty")
    refuse_control_tokens(record.prompt, (record.response, record.fields), tokenizer)
    report.leave_out(unwritten_fields(record.prompt, tokenizer, record.response, record.fields))
    encoded = encode_answers(
        record.prompt,
        [record.response],
        tokenizer,
        eos_ids,
        finished=[record.finished],
        fields=[record.fields],
    )
    ids = (*encoded.prompt, *encoded.responses[0])
    last = [(len(encoded.prompt), len(ids))]
    spans, left_out = (last, []) if record.learn else ([], last)
    if loss_on != "response" and any(turn.role == "assistant" for turn in turns):
        text = render_answered(record.prompt, record.response, tokenizer, record.fields)
        find = partial(find_assistant_spans, record.prompt, ids, text, tokenizer, eos_ids)
        if loss_on == "assistant":
            spans = [*find(), *spans]
        elif not all(turn.learn for turn in turns):
            left_out = [*find(learn=False), *left_out]
    if loss_on == "all":
        spans = [(1, len(ids))]
    ids, first = ids[: spans[-1][1]], max(1, spans[0][0])
    prompt, prompt_cut = truncate_prompt(ids[:first], limits, len(ids) - first)
    tokens = _truncate_response(limits.max_length - len(prompt), ids[first:], limits)
    mask = tuple(
        _is_within(i, spans) and not _is_within(i, left_out)
        for i in range(first, first + len(tokens))
    )
    if not any(mask):
        raise UnusableRow("no token that is to be learned is within the limits")
    num_cut = len(ids) - first - len(tokens)
    report.prompts_cut += prompt_cut
    report.responses_cut += num_cut > 0
    report.eos_lost += num_cut > 0 and record.finished
    report.eos_added += encoded.eos_added[0] and not num_cut
    _count_borders(encoded, report)
    report.unfinished += not record.finished
    report.answers_marked += sum(t.role == "assistant" and not t.learn for t in turns)
    report.answers_marked += not record.learn
    report.answers_not_learned += loss_on == "response" and bool(earlier)
    loss_mask = () if all(mask) else (mask,)
    return PromptGroup(prompt, (tokens,), (0,), source=record.source, loss_mask=loss_mask)


def _is_within(index: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start <= index < end for start, end in spans)


def _encode_responses(
    record: Record,
    tokenizer: Any,
    limits: Limits,
    eos_ids: frozenset[int],
    desirable_from: float | None,
    report: EncodeReport,
) -> PromptGroup:
    assert not isinstance(record, Text)
    answers = read_responses(record)
    ranks = tuple(answer.rank for answer in answers)
    label = {} if desirable_from is not None else preference_label(record)
    if len(ranks) > 1 and len(set(ranks)) == 1 and not label.get("votes"):
        raise UnusableRow("all its responses are tied")
    labels: dict[int, bool] = {}
    if desirable_from is not None:
        labels = desirability(record, ranks, desirable_from)
        neither = len(answers) - len(labels)
        answers = [answers[k] for k in labels]
        ranks = tuple(answer.rank for answer in answers)
    if any(answer.is_empty for answer in answers):
        raise UnusableRow("a response is empty")
    parts = [part for answer in answers for part in (answer.text, answer.fields)]
    refuse_control_tokens(record.prompt, parts, tokenizer)
    for answer in answers:
        report.leave_out(unwritten_fields(record.prompt, tokenizer, answer.text, answer.fields))
    finished = [answer.finished for answer in answers]
    encoded = encode_answers(
        record.prompt,
        [answer.text for answer in answers],
        tokenizer,
        eos_ids,
        finished=finished,
        fields=[answer.fields for answer in answers],
    )
    longest = max(map(len, encoded.responses))
    prompt, prompt_cut = truncate_prompt(encoded.prompt, limits, longest)
    max_tokens = limits.max_length - len(prompt)
    responses, num_cut, num_lost, num_added = [], 0, 0, 0
    for ids, added, whole in zip(encoded.responses, encoded.eos_added, finished, strict=True):
        response = _truncate_response(max_tokens, ids, limits)
        is_cut = len(response) < len(ids)
        num_cut += is_cut
        num_lost += whole and is_cut
        num_added += added and not is_cut
        responses.append(response)
    if len(responses) > 1 and all(response == responses[0] for response in responses):
        raise UnusableRow("its responses are equal" + (" after the cut" if num_cut else ""))
    report.prompts_cut += prompt_cut
    report.responses_cut += num_cut
    report.eos_lost += num_lost
    report.unfinished += finished.count(False)
    report.eos_added += num_added
    _count_borders(encoded, report)
    if labels:
        report.desirable += sum(labels.values())
        report.undesirable += len(labels) - sum(labels.values())
        report.neither += neither
    group = PromptGroup(
        prompt,
        tuple(responses),
        ranks,
        source=record.source,
        labels=tuple(labels.values()),
        **label,
    )
    if not labels:
        ranked_pairs = sum(a != b for a, b in itertools.combinations(ranks, 2))
        report.equal_pairs += ranked_pairs - len(group.preference_pairs)
    return group


def _count_borders(encoded: EncodedAnswers, report: EncodeReport) -> None:
    report.prompts_merged += encoded.merged
    report.prompts_reopened += encoded.reopened
    report.answers_altered += encoded.altered
