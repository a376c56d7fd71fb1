"""Token ids of one prompt and its response, by the toy tokenizer and its template."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from accord.errors import DataError
from accord.lm.tokens.answers import encode_answers
from accord.lm.tokens.encode import Limits, encode
from accord.lm.tokens.template import encode_prompt
from accord.records import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
)
from tests.lm.toys import toy_tokenizer

TOKENIZER = toy_tokenizer()
PAD, BOS, EOS = 0, 1, 2  # as scratch.train_tokenizer numbers its special tokens
EOS_IDS = frozenset({EOS})
NO_LIMIT = Limits(max_length=100)  # above any row here
CHAT = (Message("user", "the cat"),)


def tokenized(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def encode_response(
    prompt: Prompt, response: str, tokenizer: Any, eos_ids: frozenset[int]
) -> tuple[tuple[int, ...], bool]:
    encoded = encode_answers(prompt, [response], tokenizer, eos_ids)
    return encoded.responses[0], encoded.eos_added[0]


def role_id(name: str) -> int:
    return int(TOKENIZER.convert_tokens_to_ids(f"<|{name}|>"))


def tokenizer_with(**changes: Any) -> Any:
    changed = copy.deepcopy(TOKENIZER)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def test_the_chat_template_is_split_into_prompt_and_response() -> None:
    ids = encode_prompt(CHAT, TOKENIZER)
    assert ids == (BOS, role_id("user"), *tokenized("the cat"), role_id("assistant"))
    response, added = encode_response(CHAT, "sat", TOKENIZER, EOS_IDS)
    assert response == (*tokenized("sat"), EOS)
    assert not added  # the template wrote it


def test_a_system_turn_and_earlier_responses_are_part_of_the_prompt() -> None:
    talk = (
        Message("system", "be kind"),
        Message("user", "yes"),
        Message("assistant", "no"),
        Message("user", "the sea"),
    )
    assert encode_prompt(talk, TOKENIZER) == (
        BOS,
        *(role_id("system"), *tokenized("be kind")),
        *(role_id("user"), *tokenized("yes")),
        *(role_id("assistant"), *tokenized("no"), EOS),
        *(role_id("user"), *tokenized("the sea")),
        role_id("assistant"),
    )


def test_text_prompts_have_no_template_and_their_responses_get_an_eos() -> None:
    assert encode_prompt("the cat", TOKENIZER) == tokenized("the cat")
    assert encode_prompt("", TOKENIZER) == (BOS,)  # there must be a token to continue
    assert encode_response("the cat", " sat", TOKENIZER, EOS_IDS) == (
        (*tokenized(" sat"), EOS),
        True,
    )


def test_an_eos_in_the_text_is_not_doubled() -> None:
    ids, added = encode_response("the cat", " sat<|end|>", TOKENIZER, EOS_IDS)
    assert ids == (*tokenized(" sat"), EOS)
    assert not added


def test_a_second_eos_id_counts_as_eos() -> None:
    # generation_config may name more EOS tokens than the tokenizer has.
    second_eos = role_id("user")
    ids, added = encode_response("a", " b<|user|>", TOKENIZER, frozenset({EOS, second_eos}))
    assert ids == (*tokenized(" b"), second_eos)
    assert not added


def test_text_of_the_template_after_eos_is_not_trained_on() -> None:
    newline = TOKENIZER.chat_template.replace("{{- eos_token }}", "{{- eos_token + '\\n' }}")
    changed = tokenizer_with(chat_template=newline)
    ids, added = encode_response(CHAT, "sat", changed, EOS_IDS)
    assert ids == (*tokenized("sat"), EOS)
    assert not added


def test_a_template_without_eos_gets_one() -> None:
    without = TOKENIZER.chat_template.replace("{{- eos_token }}", "")
    changed = tokenizer_with(chat_template=without)
    assert encode_response(CHAT, "sat", changed, EOS_IDS) == ((*tokenized("sat"), EOS), True)
    _, report = encode([Demonstration(CHAT, "sat")], changed, NO_LIMIT, eos_ids=EOS_IDS)
    assert report.eos_added == 1


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    changed = tokenizer_with(chat_template="{{ messages | length }}{{ messages[0]['content'] }}")
    with pytest.raises(DataError, match="renders the prompt differently once it is answered"):
        encode([Demonstration(CHAT, "sat")], changed, NO_LIMIT, eos_ids=EOS_IDS)


def test_no_chat_template() -> None:
    changed = tokenizer_with(chat_template=None)
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        encode([Demonstration(CHAT, "sat")], changed, NO_LIMIT, eos_ids=EOS_IDS)


def test_pad_equal_to_eos_keeps_the_real_eos() -> None:
    changed = tokenizer_with(pad_token="<|end|>")
    assert changed.pad_token_id == changed.eos_token_id == EOS
    records = [Comparison(CHAT, "sat", "ran away"), Comparison("the", " cat", " dog")]
    groups, report = encode(records, changed, NO_LIMIT, eos_ids=EOS_IDS)
    assert all(r[-1] == EOS and r.count(EOS) == 1 for g in groups for r in g.responses)
    assert report.eos_added == 2  # the two plain texts'
    assert report.tokens == sum(len(g.prompt) + sum(map(len, g.responses)) for g in groups)


def test_some_tokenizers_end_every_text_with_eos() -> None:
    class Ending:
        """Like that of T5 and a few others: EOS after every text."""

        eos_token_id, bos_token_id = EOS, BOS

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = list(tokenized(text))
            return {"input_ids": [BOS, *ids, EOS] if add_special_tokens else ids}

    assert encode_prompt("the cat", Ending()) == (BOS, *tokenized("the cat"))
