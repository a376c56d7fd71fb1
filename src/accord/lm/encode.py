"""From records to token ids. Every cut and every drop is counted, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2.exceptions import TemplateError

from accord.errors import DataError
from accord.lm.packing import PromptGroup
from accord.records import (
    Comparison,
    Demonstration,
    Prompt,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Source,
    Text,
    prompt_json,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long rows may be, in tokens, and what happens to longer ones."""

    max_length: int
    max_prompt_length: int | None = None
    long_prompts: Literal["drop", "keep_end"] = "drop"
    long_responses: Literal["cut", "drop"] = "cut"


@dataclass
class EncodeReport:
    """What became of the records: groups made, what was cut, what was dropped and where."""

    records: int = 0
    groups: int = 0
    tokens: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0
    eos_added: int = 0
    unfinished: int = 0
    dropped: dict[str, list[Source]] = field(default_factory=dict)

    def drop(self, reason: str, source: Source) -> None:
        self.dropped.setdefault(reason, []).append(source)

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.groups:,} of {self.records:,} rows used, {self.tokens:,} tokens"]
        if self.prompts_cut:
            parts.append(f"{self.prompts_cut:,} prompts cut at their start")
        if self.responses_cut:
            parts.append(f"{self.responses_cut:,} responses cut short (they lost their EOS)")
        if self.unfinished:
            parts.append(f"{self.unfinished:,} responses without an end, as they were sampled")
        for reason, sources in self.dropped.items():
            shown = ", ".join(str(s) for s in sources[:3]) + (", …" if len(sources) > 3 else "")
            parts.append(f"{len(sources):,} dropped: {reason} ({shown})")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "used": self.groups,
            "tokens": self.tokens,
            "prompts_cut": self.prompts_cut,
            "responses_cut": self.responses_cut,
            "eos_added": self.eos_added,
            "unfinished": self.unfinished,
            "dropped": {reason: len(sources) for reason, sources in self.dropped.items()},
        }


class _Dropped(Exception):  # noqa: N818 - not an error: the row is counted and left out
    pass


def encode(
    records: Sequence[Record], tokenizer: Any, limits: Limits, *, eos_ids: frozenset[int]
) -> tuple[list[PromptGroup], EncodeReport]:
    """Token groups of records, in order. Raises DataError when none is left.

    A response ends with EOS unless it had to be cut. Text longer than the limit is learned in
    pieces, so nothing of it is lost. Prompts without responses come as `encode_prompts`.
    """
    report = EncodeReport(records=len(records))
    groups: list[PromptGroup] = []
    for record in records:
        try:
            if isinstance(record, Text):
                groups += _text_groups(record, tokenizer, limits)
            else:
                groups.append(_group(record, tokenizer, limits, eos_ids, report))
        except _Dropped as reason:
            report.drop(str(reason), record.source)
    report.groups = len(groups)
    report.tokens = sum(g.tokens for g in groups)
    if not groups:
        counts = Counter({reason: len(where) for reason, where in report.dropped.items()})
        reasons = "; ".join(f"{n} × {reason}" for reason, n in counts.most_common())
        raise DataError(
            f"None of the {len(records)} rows can be used: {reasons or 'there are no rows'}. "
            f"The limits are max_length={limits.max_length} and "
            f"max_prompt_length={limits.max_prompt_length}."
        )
    return groups, report


def encode_prompt(prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of a prompt as the model is to continue it: the chat template, or the text.

    Raises DataError for a conversation when the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt, add_special_tokens=True)["input_ids"]
        eos = tokenizer.eos_token_id
        if ids and ids[-1] == eos and tokenizer.bos_token_id != eos:
            ids = ids[:-1]  # some tokenizers end every text with EOS; a prompt has not ended
        return tuple(ids) or (_first_token(tokenizer),)
    return tuple(_plain(tokenizer, _render(prompt, tokenizer, None)))


def encode_response(
    prompt: Prompt,
    response: str,
    tokenizer: Any,
    eos_ids: frozenset[int],
    *,
    finished: bool = True,
) -> tuple[tuple[int, ...], bool]:
    """Token ids of a response to the prompt, ending with EOS, and whether EOS had to be added.

    A response that is not finished (cut when it was sampled) has no EOS. What the template writes
    after the answer's EOS (a line break, say) is not part of it.
    """
    if not finished:
        ids, _ = encode_response(prompt, response, tokenizer, eos_ids)
        return (ids[:-1] if len(ids) > 1 else ids), False
    if isinstance(prompt, str):
        own = _plain(tokenizer, response)
    else:
        before = _render(prompt, tokenizer, None)
        after = _render(prompt, tokenizer, response)
        if not after.startswith(before):
            raise DataError(
                "The tokenizer's chat template renders a prompt differently once it is answered, "
                "so the answer's tokens can't be told apart. Use a template with a generation "
                f"prompt. The prompt was {before[-80:]!r}."
            )
        own = _plain(tokenizer, after[len(before) :])
        ends = [i for i, token in enumerate(own) if token in eos_ids]
        if ends and not _plain_text(tokenizer, own[ends[-1] + 1 :]):
            return tuple(own[: ends[-1] + 1]), False
    if own and own[-1] in eos_ids:
        return tuple(own), False
    return (*own, tokenizer.eos_token_id), True


def fit_prompt(ids: tuple[int, ...], limits: Limits) -> tuple[tuple[int, ...], bool]:
    """The prompt within its limit, and whether it was cut. Raises when it is to be dropped."""
    limit = min(limits.max_prompt_length or limits.max_length, limits.max_length - 1)
    if len(ids) <= limit:
        return ids, False
    if limits.long_prompts == "drop":
        raise _Dropped(f"the prompt has more than {limit} tokens")
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
            _refuse_control_tokens(record.prompt, (), tokenizer)
            ids, cut = fit_prompt(encode_prompt(record.prompt, tokenizer), limits)
        except _Dropped as reason:
            report.drop(str(reason), record.source)
            continue
        report.prompts_cut += cut
        found.append(ids)
        kept.append(record)
    if not found:
        raise DataError(f"None of the {len(records)} prompts can be used: {report.summary()}.")
    report.groups, report.tokens = len(found), sum(len(p) for p in found)
    return found, kept, report


def _refuse_control_tokens(prompt: Prompt, responses: Sequence[str], tokenizer: Any) -> None:
    """Drop a conversation whose text spells one of the tokenizer's special tokens.

    It would be read as that token: a turn could be forged, or a response end in its middle. Plain
    text is taken as it stands, since it may have been rendered on purpose.
    """
    if isinstance(prompt, str):
        return
    parts = [*(turn.content for turn in prompt), *responses]
    for token in tokenizer.all_special_tokens:
        if any(token in part for part in parts):
            raise _Dropped(f"its text spells the control token {token}")


def _responses(record: Record) -> tuple[tuple[str, ...], tuple[int, ...], tuple[bool, ...]]:
    """The responses' texts, their ranks, and which of them ended."""
    if isinstance(record, Demonstration | Rating):
        return (record.response,), (0,), (True,)
    if isinstance(record, Comparison):
        ended = (record.chosen_finished, record.rejected_finished)
        return (record.chosen, record.rejected), (0, 1), ended
    if isinstance(record, Ranking):
        return record.responses, record.ranks, record.finished or (True,) * len(record.ranks)
    raise DataError(f"{record.source}: a {type(record).__name__} has no response to learn from.")


def _group(
    record: Record,
    tokenizer: Any,
    limits: Limits,
    eos_ids: frozenset[int],
    report: EncodeReport,
) -> PromptGroup:
    assert not isinstance(record, Text)
    texts, ranks, finished = _responses(record)
    if not all(text.strip() for text in texts):
        raise _Dropped("a response is empty")
    _refuse_control_tokens(record.prompt, texts, tokenizer)
    prompt, prompt_cut = fit_prompt(encode_prompt(record.prompt, tokenizer), limits)
    room = limits.max_length - len(prompt)
    encoded, cut, added = [], 0, 0
    for text, ended in zip(texts, finished, strict=True):
        ids, eos_added = encode_response(record.prompt, text, tokenizer, eos_ids, finished=ended)
        if len(ids) > room:
            if limits.long_responses == "drop":
                raise _Dropped(f"prompt and response have more than {limits.max_length} tokens")
            ids, cut = ids[:room], cut + 1
        elif eos_added:
            added += 1
        encoded.append(ids)
    if len(encoded) > 1 and all(ids == encoded[0] for ids in encoded):
        raise _Dropped("its responses are equal" + (" after the cut" if cut else ""))
    if len(ranks) > 1 and len(set(ranks)) == 1:
        raise _Dropped("all its responses are tied")
    report.prompts_cut += prompt_cut
    report.responses_cut += cut
    report.unfinished += finished.count(False)
    report.eos_added += added
    margin = record.margin if isinstance(record, Comparison) else None
    return PromptGroup(prompt, tuple(encoded), ranks, margin, record.source)


def _text_groups(record: Text, tokenizer: Any, limits: Limits) -> list[PromptGroup]:
    ids = _plain(tokenizer, record.text)
    if not ids:
        raise _Dropped("the text is empty")
    ids.append(tokenizer.eos_token_id)
    first, room = _first_token(tokenizer), limits.max_length - 1
    pieces = [tuple(ids[i : i + room]) for i in range(0, len(ids), room)]
    return [PromptGroup((first,), (piece,), (0,), source=record.source) for piece in pieces]


def _first_token(tokenizer: Any) -> int:
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain_text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _render(prompt: Prompt, tokenizer: Any, response: str | None) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "The rows are conversations, but the tokenizer has no chat template. Save one with "
            "the tokenizer (`chat_template`), or give prompts and responses as plain text."
        )
    turns = prompt_json(prompt)
    assert isinstance(turns, list)
    if response is not None:
        turns = [*turns, {"role": "assistant", "content": response}]
    try:
        return str(
            tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=response is None
            )
        )
    except TemplateError as error:
        raise _Dropped(f"the chat template refuses it ({error})") from error
