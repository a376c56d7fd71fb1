"""Which tokens of a conversation are trained on: the last response, every response, or all."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from accord.errors import DataError
from accord.lm.checks import check_packing
from accord.lm.forward import response_logps
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup, pack
from accord.lm.tokens.encode import EncodeReport, Limits, LossOn, encode
from accord.records import Demonstration, Message, Source, Text
from tests.lm.models import VOCABULARY, causal
from tests.lm.toys import random_groups, toy_tokenizer

TOKENIZER = toy_tokenizer()
BOS, EOS = 1, 2
TALK = (
    Message("user", "the cat"),
    Message("assistant", "sat"),
    Message("user", "a dog"),
)
RECORD = Demonstration(TALK, "ran away", Source("rows.jsonl", 4))
PLAIN = Demonstration("the", " sea")


def tokenized(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def role_id(name: str) -> int:
    return int(TOKENIZER.convert_tokens_to_ids(f"<|{name}|>"))


CAT, SAT, DOG, RAN = (
    tokenized("the cat"),
    tokenized("sat"),
    tokenized("a dog"),
    tokenized("ran away"),
)
# The whole conversation as the toy template renders it: no EOS but the assistant's.
BEGINNING = (BOS, role_id("user"), *CAT, role_id("assistant"))
MIDDLE = (role_id("user"), *DOG, role_id("assistant"))
WHOLE = (*BEGINNING, *SAT, EOS, *MIDDLE, *RAN, EOS)


def encoded(
    *records: Any, loss_on: LossOn, tokenizer: Any = TOKENIZER, **limits: Any
) -> tuple[list[PromptGroup], EncodeReport]:
    return encode(
        records,
        tokenizer,
        Limits(**{"max_length": 100, **limits}),
        eos_ids=frozenset({EOS}),
        loss_on=loss_on,
    )


def with_template(change: str, into: str) -> Any:
    changed = copy.deepcopy(TOKENIZER)
    assert change in changed.chat_template
    changed.chat_template = changed.chat_template.replace(change, into)
    return changed


def test_the_last_response_alone_and_the_others_are_reported() -> None:
    (group,), report = encoded(RECORD, loss_on="response")
    assert group.prompt == (*BEGINNING, *SAT, EOS, *MIDDLE)
    assert group.responses == ((*RAN, EOS),)
    assert group.loss_mask == ()
    assert group.num_targets == len(RAN) + 1
    assert report.answers_not_learned == 1
    assert "1 rows with earlier answers, of which only the last is learned" in report.summary()


def test_every_response_with_its_eos() -> None:
    (group,), report = encoded(RECORD, loss_on="assistant")
    assert (*group.prompt, *group.responses[0]) == WHOLE
    assert group.prompt == BEGINNING
    (mask,) = group.loss_mask
    learned = [t for t, on in zip(group.responses[0], mask, strict=True) if on]
    assert learned == [*SAT, EOS, *RAN, EOS]
    # The user's turn between the responses is context, and not trained on.
    assert [t for t, on in zip(group.responses[0], mask, strict=True) if not on] == [*MIDDLE]
    assert group.num_targets == len(learned)
    assert report.answers_not_learned == 0


def test_a_single_response_needs_no_mask() -> None:
    record = Demonstration(TALK[:1], "sat")
    (response,), _ = encoded(record, loss_on="response")
    (assistant,), _ = encoded(record, loss_on="assistant")
    assert assistant == response
    (text,), _ = encoded(PLAIN, loss_on="assistant")
    assert text == encoded(PLAIN, loss_on="response")[0][0]


def test_everything_after_the_first_token() -> None:
    (group, text), report = encoded(RECORD, PLAIN, loss_on="all")
    assert (group.prompt, group.responses, group.loss_mask) == (WHOLE[:1], (WHOLE[1:],), ())
    assert (*text.prompt, *text.responses[0]) == (*tokenized("the"), *tokenized(" sea"), EOS)
    assert len(text.prompt) == 1
    assert report.answers_not_learned == 0


def test_text_rows_are_trained_on_whole_under_any_loss_on() -> None:
    groups = {on: encoded(Text("the cat sat"), loss_on=on)[0] for on in ("response", "assistant")}
    assert (
        groups["response"] == groups["assistant"] == encoded(Text("the cat sat"), loss_on="all")[0]
    )


def test_a_long_conversation_loses_its_last_turns() -> None:
    # Room for the first response with its EOS, and one token of the next turn.
    n = len(BEGINNING) + len(SAT) + 2
    (group,), report = encoded(RECORD, loss_on="assistant", max_length=n, long_responses="cut")
    assert group.responses == ((*SAT, EOS, role_id("user")),)
    assert group.loss_mask == ((*(True,) * (len(SAT) + 1), False),)
    assert (report.responses_cut, report.prompts_cut, report.eos_added) == (1, 0, 0)
    (group, _), report = encoded(
        RECORD, PLAIN, loss_on="assistant", max_length=n, long_responses="cut"
    )
    assert group.num_targets == len(SAT) + 1
    _, report = encoded(RECORD, PLAIN, loss_on="assistant", max_length=n, long_responses="drop")
    (reason,) = report.dropped
    assert reason.startswith(f"prompt and response have more than {n} tokens, so")
    assert report.dropped[reason] == [RECORD.source]


def test_text_after_eos_in_the_template_is_not_trained_on() -> None:
    changed = with_template("{{- eos_token }}", "{{- eos_token + '\\n' }}")
    (group,), _ = encoded(RECORD, loss_on="assistant", tokenizer=changed)
    (mask,) = group.loss_mask
    learned = [t for t, on in zip(group.responses[0], mask, strict=True) if on]
    assert learned == [*SAT, EOS, *RAN, EOS]


def test_a_template_that_adds_reasoning_to_the_last_turn_alone() -> None:
    # As reasoning models' templates do: the last response begins with empty reasoning, which the
    # template removes once another turn follows.
    changed = with_template(
        "{{- '<|' + message['role'] + '|>' + message['content'] }}",
        "{{- '<|' + message['role'] + '|>' }}"
        "{%- if loop.last and message['role'] == 'assistant' %}{{- 'yes ' }}{%- endif %}"
        "{{- message['content'] }}",
    )
    (group,), _ = encoded(RECORD, loss_on="assistant", tokenizer=changed)
    (mask,) = group.loss_mask
    learned = [t for t, on in zip(group.responses[0], mask, strict=True) if on]
    assert learned == [*SAT, EOS, *tokenized("yes ran away"), EOS]


ROLE_AND_TEXT = "{{- '<|' + message['role'] + '|>' + message['content'] }}"
LAST_RESPONSE = "{{- 'yes ' if loop.last and message['role'] == 'assistant' else '' }}"
REWRITTEN = {
    # The beginning contains the number of questions.
    "beginning": (
        "{{- bos_token }}",
        "{{- messages | selectattr('role', 'eq', 'user') | list | length }}",
    ),
    # The last response alone has reasoning, and no response ends with EOS.
    "no end": (ROLE_AND_TEXT, ROLE_AND_TEXT.replace("'|>' +", f"'|>' }}}}{LAST_RESPONSE}{{{{-")),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_template_whose_turns_cannot_be_separated(name: str) -> None:
    changed = with_template(*REWRITTEN[name])
    if name == "no end":
        changed.chat_template = changed.chat_template.replace("{{- eos_token }}", "")
    groups, report = encoded(RECORD, PLAIN, loss_on="assistant", tokenizer=changed)
    assert len(groups) == 1
    reason = "the chat template rewrites earlier turns, so their answers can't be found"
    assert report.dropped == {reason: [RECORD.source]}
    with pytest.raises(DataError, match="1 × the chat template rewrites earlier turns"):
        encoded(RECORD, loss_on="assistant", tokenizer=changed)


def test_an_empty_response_is_dropped() -> None:
    talk = (TALK[0], Message("assistant", " "), TALK[2])
    _, report = encoded(Demonstration(talk, "ran"), PLAIN, loss_on="assistant")
    assert list(report.dropped) == ["a response is empty"]
    groups, _ = encoded(Demonstration(talk, "ran"), PLAIN, loss_on="response")
    assert len(groups) == 2  # it is context only


MASKED = [
    PromptGroup(g.prompt, g.responses, g.ranks, loss_mask=mask)
    for g, mask in zip(
        random_groups([(3, (6,)), (5, (4,)), (1, (3,))], VOCABULARY),
        [((True, False, False, True, True, False),), (), ((False, False, True),)],
        strict=True,
    )
]


def test_packing_has_no_padding_and_targets_are_masked_tokens_alone() -> None:
    batch = pack(MASKED)
    assert len(batch.input_ids) == 3 + 6 + 5 + 4 + 1 + 3
    a, b, c = (g.responses[0] for g in MASKED)
    assert batch.targets.tolist() == [a[0], a[3], a[4], *b, c[2]]
    # The token before each: of the first response, flat indices 2 (the prompt's last), 5 and 6.
    assert batch.predict_index.tolist() == [2, 5, 6, 13, 14, 15, 16, 20]
    assert batch.response_of.tolist() == [0, 0, 0, 1, 1, 1, 1, 2]
    assert batch.lengths.tolist() == [3, 4, 1]
    assert batch.last.tolist() == [8, 17, 21]
    assert batch.per_response(torch.ones(8)).tolist() == [3, 4, 1]


@pytest.mark.parametrize("shares_prefixes", [True, False])
@torch.no_grad()
def test_target_tokens_have_the_log_probs_of_the_whole_row(shares_prefixes: bool) -> None:
    lm = LanguageModel(causal("llama"), type("NoTokenizer", (), {"eos_token_id": 2})(), "toy")
    assert check_packing(lm)
    lm.shares_prefixes = shares_prefixes
    actual = response_logps(lm, pack(MASKED))
    plain_model, expected = causal("llama"), []
    for group in MASKED:
        (row,) = group.responses
        logits = plain_model(input_ids=torch.tensor([[*group.prompt, *row]])).logits[0]
        logps = logits.log_softmax(-1)
        mask = group.loss_mask[0] if group.loss_mask else (True,) * len(row)
        expected += [
            logps[len(group.prompt) - 1 + i, token]
            for i, (token, on) in enumerate(zip(row, mask, strict=True))
            if on
        ]
    torch.testing.assert_close(actual, torch.stack(expected), rtol=0, atol=1e-4)


def test_a_turn_that_is_marked_is_context_only() -> None:
    marked = (TALK[0], replace(TALK[1], learn=False), TALK[2])
    record = replace(RECORD, prompt=marked)
    (group,), report = encoded(record, loss_on="assistant")
    assert group.prompt == (*BEGINNING, *SAT, EOS, *MIDDLE)
    assert group.responses == ((*RAN, EOS),)
    assert "1 answers are context only, as the rows mark them" in report.summary()
    (group,), _ = encoded(record, loss_on="all")
    (mask,) = group.loss_mask
    learned = [t for t, on in zip(group.responses[0], mask, strict=True) if on]
    assert learned == [*BEGINNING[1:], *MIDDLE, *RAN, EOS]


def test_a_marked_last_answer() -> None:
    record = replace(RECORD, learn=False)
    (group,), _ = encoded(record, loss_on="assistant")
    assert (group.prompt, group.responses) == (BEGINNING, ((*SAT, EOS),))  # nothing behind it
    both = [record, replace(RECORD, source=Source("rows.jsonl", 5))]
    groups, report = encoded(*both, loss_on="response")
    assert len(groups) == 1
    assert report.dropped == {"its answers are marked as not to be learned": [record.source]}
    marked = (TALK[0], replace(TALK[1], learn=False), TALK[2])
    with pytest.raises(DataError, match="marked as not to be learned"):
        encoded(replace(record, prompt=marked), loss_on="assistant")
