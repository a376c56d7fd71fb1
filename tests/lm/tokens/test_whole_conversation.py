"""The ids that are learned are those of the whole conversation, as transformers tokenizes it.

Every kind of tokenizer is crossed with every chat template, on random texts. The expected ids are
`apply_chat_template(tokenize=True)` of the conversation with its answer.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accord.lm.tokens.answers import encode_answers
from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.encode import Limits, encode
from accord.lm.tokens.template import encode_prompt
from accord.records import Demonstration, Message, Text
from tests.lm.tokens.templates import TEMPLATES
from tests.lm.tokens.tokenizers import ADDING, KINDS, eos_ids, make_tokenizer

WORDS = ["good", "day", " ", "  ", "\n", "the", "?", "é", "日", "😀", "Lake", "ﬁ", "'s", "7", "."]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join)
answers = texts.filter(lambda text: bool(text.strip()))
names = st.sampled_from(sorted(TEMPLATES))
bounded = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes
)
kinds = pytest.mark.parametrize("kind", KINDS)


@cache
def tokenizer_of(kind: str, name: str, adding: str = "bos") -> Any:
    return make_tokenizer(kind, TEMPLATES[name], adding)


@st.composite
def conversations(draw: Any, name: str) -> tuple[Message, ...]:
    """The turns before an answer, as the template accepts them."""
    turns = []
    if TEMPLATES[name].system and draw(st.booleans()):
        turns.append(Message("system", draw(answers)))
    for _ in range(draw(st.integers(0, 2))):
        turns += [Message("user", draw(answers)), Message("assistant", draw(answers))]
    return (*turns, Message("user", draw(answers)))


def rendered_ids(tokenizer: Any, turns: tuple[Message, ...], **options: Any) -> list[int]:
    dicts = [{"role": turn.role, "content": turn.content} for turn in turns]
    return list(tokenizer.apply_chat_template(dicts, tokenize=True, return_dict=False, **options))


def require_whole(
    prompt: tuple[int, ...], response: tuple[int, ...], added: bool, whole: list[int], made: Any
) -> None:
    """The row is the whole conversation but for what the template writes behind the end."""
    ids = [*prompt, *response]
    if added:  # nothing ends the answer, so EOS is added behind the conversation
        assert ids == [*whole, made.eos_token_id]
        return
    assert ids == whole[: len(ids)]
    control = control_tokens(made).ids
    behind = [i for i in whole[len(ids) :] if i not in control]
    assert not made.decode(behind).strip()


@kinds
@given(data=st.data(), name=names)
@bounded
def test_prompt_and_answers_are_the_whole_conversation(kind: str, data: Any, name: str) -> None:
    made, template = tokenizer_of(kind, name), TEMPLATES[name]
    prompt = data.draw(conversations(name))
    responses = data.draw(st.lists(answers, min_size=1, max_size=2))
    ends = eos_ids(made, template)
    encoded = encode_answers(prompt, responses, made, ends)
    before = rendered_ids(made, prompt, add_generation_prompt=True)
    assert list(encoded.prompt) == before[: len(encoded.prompt)]
    assert (len(encoded.prompt) < len(before)) == (encoded.merged or encoded.reopened)
    assert encode_prompt(prompt, made) == tuple(before)
    whole_rows = encode_answers(prompt, responses, made, ends, whole=True)
    unfinished = encode_answers(prompt, responses, made, ends, finished=[False] * len(responses))
    for k, text in enumerate(responses):
        whole = rendered_ids(made, (*prompt, Message("assistant", text)))
        response = encoded.responses[k]
        require_whole(encoded.prompt, response, encoded.eos_added[k], whole, made)
        assert encoded.eos_added[k] == (not template.ends)
        assert response[-1] in ends
        assert [*whole_rows.prompt, *whole_rows.responses[k]] == whole
        assert response[:-1][: len(unfinished.responses[k])] == unfinished.responses[k]
        assert not ends & set(unfinished.responses[k])


@kinds
@given(data=st.data(), name=names)
@bounded
def test_every_answer_is_learned_with_its_end(kind: str, data: Any, name: str) -> None:
    made, template = tokenizer_of(kind, name), TEMPLATES[name]
    prompt, last = data.draw(conversations(name)), data.draw(answers)
    ends, limits = eos_ids(made, template), Limits(10_000)
    (group,), _ = encode(
        [Demonstration(prompt, last)], made, limits, eos_ids=ends, loss_on="assistant"
    )
    (response,) = group.responses
    whole = rendered_ids(made, (*prompt, Message("assistant", last)))
    require_whole(group.prompt, response, not template.ends, whole, made)
    mask = group.loss_mask[0] if group.loss_mask else (True,) * len(response)
    spans = [i for i, on in enumerate(mask) if on and (i == 0 or not mask[i - 1])]
    assert len(spans) == sum(turn.role == "assistant" for turn in prompt) + 1
    earlier = [i for i in spans[1:] if template.ends and response[i - 1] in ends]
    assert not earlier  # between two answers there is a user's turn


@kinds
@given(data=st.data(), name=names)
@bounded
def test_a_prompt_that_begins_the_answer(kind: str, data: Any, name: str) -> None:
    made, template = tokenizer_of(kind, name), TEMPLATES[name]
    begun, rest = data.draw(answers), data.draw(answers)
    prompt = (*data.draw(conversations(name)), Message("assistant", begun))
    before = rendered_ids(made, prompt, continue_final_message=True)
    assert encode_prompt(prompt, made) == tuple(before)
    encoded = encode_answers(prompt, [rest], made, eos_ids(made, template))
    whole = rendered_ids(made, (*prompt[:-1], Message("assistant", begun + rest)))
    require_whole(encoded.prompt, encoded.responses[0], encoded.eos_added[0], whole, made)


@kinds
@pytest.mark.parametrize("adding", ADDING)
@given(prompt=texts, completion=answers)
@bounded
def test_plain_text_is_tokenized_as_one(
    kind: str, adding: str, prompt: str, completion: str
) -> None:
    made = tokenizer_of(kind, "zephyr", adding)
    bos, eos = made.bos_token_id, made.eos_token_id
    encoded = encode_answers(prompt, [completion], made, frozenset({eos}))
    plain = made(prompt + completion, add_special_tokens=False)["input_ids"]
    expected = [*([bos] if adding in ("bos", "both") else []), *plain, eos]
    (response,) = encoded.responses
    ids = [*encoded.prompt, *response]
    # Where the texts share no token and nothing is put before them, BOS is what the answer follows.
    assert ids in (expected, [bos, *expected])
    assert encoded.prompt != () != response
    (group, *rest), _ = encode(
        [Text(prompt + completion)], made, Limits(10_000), eos_ids=frozenset({eos})
    )
    assert [*group.prompt, *group.responses[0]] == expected
    assert not rest


@kinds
@pytest.mark.parametrize("adding", ADDING)
def test_rendered_text_has_one_beginning_and_one_end(kind: str, adding: str) -> None:
    for name in TEMPLATES:
        assert_single_ends(kind, adding, name)


def assert_single_ends(kind: str, adding: str, name: str) -> None:
    made, template = tokenizer_of(kind, name, adding), TEMPLATES[name]
    turns = (Message("user", "good day"), Message("assistant", "well, thanks"))
    whole = rendered_ids(made, turns)
    dicts = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = made.apply_chat_template(dicts, tokenize=False)
    before = made.apply_chat_template(dicts[:1], tokenize=False, add_generation_prompt=True)
    ends = eos_ids(made, template)
    (group,), _ = encode([Text(text)], made, Limits(10_000), eos_ids=ends)
    ids = [*group.prompt, *group.responses[0]]
    adds_bos = adding in ("bos", "both") and whole[0] != made.bos_token_id
    expected = [*([made.bos_token_id] if adds_bos else []), *whole]
    assert ids == [*expected, *([] if template.ends else [made.eos_token_id])]
    prompt = encode_prompt(before, made)
    rendered = rendered_ids(made, turns[:1], add_generation_prompt=True)
    assert list(prompt) == [*([made.bos_token_id] if adds_bos else []), *rendered]
