"""Where answers begin and end, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from accord.compare.rewards.models import encode_for_reward
from accord.errors import RewardError
from accord.lm.tokens.answers import encode_answers
from accord.lm.tokens.encode import EncodeReport, Limits, encode
from accord.lm.tokens.template import encode_prompt
from accord.records import Comparison, Demonstration, Message, Source, Text
from tests.lm.tokens.templates import CHATML, TEMPLATES
from tests.lm.tokens.tokenizers import eos_ids, make_tokenizer

ASK = (Message("user", "how do you feel?"),)


def tokens_of(made: Any, ids: Any) -> list[str]:
    return list(made.convert_ids_to_tokens(list(ids)))


def encoded(kind: str, name: str, *rows: Any, **options: Any) -> tuple[Any, Any, EncodeReport]:
    made = make_tokenizer(kind, TEMPLATES[name])
    ends = eos_ids(made, TEMPLATES[name])
    groups, report = encode(rows, made, Limits(500), eos_ids=ends, **options)
    return made, groups, report


@pytest.mark.parametrize("kind", ["prepend", "metaspace first", "metaspace always", "unigram"])
def test_no_blank_is_put_before_an_answer(kind: str) -> None:
    # Mistral's template writes " good day": one blank, that of the word's token.
    made, (group,), _ = encoded(kind, "mistral1", Demonstration(ASK, "good day"))
    text = tokens_of(made, group.responses[0])
    assert text[0].startswith("▁g")
    assert text[-1] == "</s>"
    made, (group,), _ = encoded(kind, "mistral1", Demonstration("how do you feel?\n", "good day"))
    assert not tokens_of(made, group.responses[0])[0].startswith("▁")


def test_nothing_behind_the_first_end_is_learned() -> None:
    # Phi-3's template ends a conversation with <|end|>\n<|endoftext|>; both end an answer.
    made, (group, pair), _ = encoded(
        "byte-level", "phi3", Demonstration(ASK, "well"), Comparison(ASK, "yes", "no")
    )
    assert made.decode(group.responses[0]) == "well<|end|>"
    assert [made.decode(ids) for ids in pair.responses] == ["yes<|end|>", "no<|end|>"]


def test_text_that_the_template_writes_behind_the_end_is_not_learned() -> None:
    made = make_tokenizer("byte-level", TEMPLATES["chatml"])
    made.chat_template = CHATML.replace("<|im_end|>\n", "<|im_end|>\n### Next\n")
    ends = frozenset({made.eos_token_id})
    answer = encode_answers(ASK, ["well"], made, ends)
    assert made.decode(answer.responses[0]) == "well<|im_end|>"
    cut = encode_answers(ASK, ["well"], made, ends, finished=[False])
    assert made.decode(cut.responses[0]) == "well"


def test_an_unfinished_answer_has_no_end_of_its_turn() -> None:
    # Without a generation configuration Gemma's <end_of_turn> is no EOS, and still the turn's end.
    made = make_tokenizer("metaspace never", TEMPLATES["gemma"])
    only_eos = frozenset({made.eos_token_id})
    cut = encode_answers(ASK, ["well"], made, only_eos, finished=[False])
    assert made.decode(cut.responses[0]) == "well"
    ended = encode_answers(ASK, ["well"], made, only_eos)
    assert made.decode(ended.responses[0]) == "well<end_of_turn>\n<eos>"
    assert ended.eos_added == (True,)


def test_a_prompt_that_opens_a_thought() -> None:
    # R1's generation prompt ends with <think>, and an answered turn has no thought.
    thought = Demonstration(ASK, "<think>\nhm\n</think>\n\nwell")
    made, (group, plain), report = encoded("byte-level", "r1", thought, Demonstration(ASK, "no"))
    assert made.decode(group.prompt).endswith("<｜Assistant｜>")
    assert made.decode(group.responses[0]) == "\n\nwell<｜end▁of▁sentence｜>"
    assert made.decode(plain.responses[0]) == "no<｜end▁of▁sentence｜>"
    assert made.decode(encode_prompt(ASK, made)).endswith("<｜Assistant｜><think>\n")
    assert (report.prompts_reopened, report.answers_altered) == (2, 1)
    assert "in 2 rows the chat template begins the answer differently" in report.summary()
    assert "leaves out or changes a part of 1 answers, such as a thought" in report.summary()


def test_thoughts_that_a_template_retains_are_learned() -> None:
    row = Demonstration(ASK, "<think>\nhm\n</think>\n\nwell")
    made, (group,), report = encoded("byte-level", "qwen3", row)
    assert made.decode(group.responses[0]) == "<think>\nhm\n</think>\n\nwell<|im_end|>"
    assert report.answers_altered == 0


def test_earlier_thoughts_that_a_template_drops() -> None:
    talk = (*ASK, Message("assistant", "<think>\nhm\n</think>\n\nwell"), Message("user", "and?"))
    row = Demonstration(talk, "no", Source("f", 1))
    made, (group,), _ = encoded("byte-level", "qwen3", row)
    assert "hm" not in made.decode(group.prompt)  # as the model sees it when it answers
    other = Demonstration(ASK, "no")
    _, groups, report = encoded("byte-level", "qwen3", row, other, loss_on="assistant")
    assert len(groups) == 1
    assert list(report.dropped) == [
        "the chat template rewrites earlier turns, so their answers can't be found"
    ]


def test_an_earlier_answer_that_nothing_but_line_breaks_end() -> None:
    # Alone, the two line breaks behind the answer are one token; before "7" they are two.
    talk = (*ASK, Message("assistant", "good"), Message("user", "and?"))
    made = make_tokenizer("byte-level", TEMPLATES["alpaca"])
    made.chat_template = TEMPLATES["alpaca"].text.replace("'### ' + m['role']", "m['role']")
    row = Demonstration(talk, "no")
    (group,), _ = encode([row], made, Limits(500), eos_ids=frozenset({2}), loss_on="assistant")
    (mask,) = group.loss_mask
    learned = made.decode([t for t, on in zip(group.responses[0], mask, strict=True) if on])
    assert learned == "goodno\n\n</s>"


def test_a_system_turn_that_is_left_out_once_answered_is_refused() -> None:
    # Mistral v0.3's template writes it into the last turn, if that is the user's.
    system = Demonstration((Message("system", "be kind"), *ASK), "well", Source("f", 1))
    _, groups, report = encoded("prepend", "mistral3", system, Demonstration(ASK, "well"))
    assert len(groups) == 1
    assert list(report.dropped) == [
        "the chat template renders the prompt differently once it is answered, so the answer's "
        "tokens can't be separated"
    ]


def test_a_token_across_the_border_belongs_to_the_answer_and_is_counted() -> None:
    made, (group,), report = encoded("byte-level", "chatml", Demonstration("good d", "ay, lake"))
    ids = made("good day, lake")["input_ids"]
    assert [*group.prompt, *group.responses[0][:-1]] == ids
    assert made.decode(group.responses[0]) == " day, lake<|im_end|>"
    assert report.prompts_merged == 1
    assert "in 1 rows a token spans the end of the prompt" in report.summary()


def test_a_prompt_that_is_within_the_first_token_of_its_answer() -> None:
    made = make_tokenizer("byte-level", TEMPLATES["chatml"], "nothing")
    day = made("day")["input_ids"]
    assert len(day) <= 2
    answer = encode_answers("d", ["ay"], made, frozenset({made.eos_token_id}))
    assert [*answer.prompt, *answer.responses[0]][-len(day) - 1 :] == [*day, made.eos_token_id]


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral1", "qwen3", "r1", "command"])
def test_an_answer_that_continues_the_prompt(name: str) -> None:
    made = make_tokenizer("tiktoken", TEMPLATES[name])
    begun = (*ASK, Message("assistant", "good"))
    pair = encode_answers(begun, [" day", " lake"], made, eos_ids(made, TEMPLATES[name]))
    one_turn = [
        encode_answers(ASK, [text], made, eos_ids(made, TEMPLATES[name]))
        for text in ("good day", "good lake")
    ]
    for response, whole in zip(pair.responses, one_turn, strict=True):
        assert (*pair.prompt, *response) == (*whole.prompt, *whole.responses[0])
    assert made.decode(pair.responses[0]).startswith(" day")
    # The beginning is context: it is not learned.
    _, (group,), _ = encoded("tiktoken", name, Demonstration(begun, " day"), loss_on="assistant")
    assert group.prompt == pair.prompt
    assert group.responses == pair.responses[:1]


@pytest.mark.parametrize("adding", ["bos", "both"])
def test_every_piece_of_a_text_follows_the_tokenizers_beginning(adding: str) -> None:
    made = make_tokenizer("prepend", TEMPLATES["zephyr"], adding)
    text = "a small boat sails over the calm lake"
    groups, _ = encode([Text(text)], made, Limits(4), eos_ids=frozenset({made.eos_token_id}))
    assert all(group.prompt == (made.bos_token_id,) for group in groups)
    learned = [token for group in groups for token in group.responses[0]]
    plain = made(text, add_special_tokens=False)["input_ids"]
    assert learned == [*plain, made.eos_token_id]


@pytest.mark.parametrize("length", [2, 4, 100])
def test_where_nothing_begins_a_text_each_piece_follows_the_token_before_it(length: int) -> None:
    # ChatML's conversations have no BOS, and no text has one.
    made = make_tokenizer("byte-level", TEMPLATES["chatml"], "nothing")
    text = "a small boat sails over the calm lake"
    groups, _ = encode([Text(text)], made, Limits(length), eos_ids=frozenset({made.eos_token_id}))
    learned = [token for group in groups for token in group.responses[0]]
    assert [*groups[0].prompt, *learned] == [*made(text)["input_ids"], made.eos_token_id]
    assert [g.prompt[0] for g in groups[1:]] == [g.responses[0][-1] for g in groups[:-1]]
    assert all(len(g.prompt) == 1 and g.num_tokens <= length for g in groups)


def test_a_reward_models_template_that_refuses_a_prompt_is_named() -> None:
    class RewardModel:
        name, max_length, max_prompt_length = "rm", None, None
        reads_last_token, unread_padding = True, None  # another maker's
        tokenizer = make_tokenizer("metaspace never", TEMPLATES["gemma"])
        eos_ids = eos_ids(tokenizer, TEMPLATES["gemma"])

    lm: Any = RewardModel()
    system = (Message("system", "be kind"), *ASK)
    with pytest.raises(RewardError, match=r"model rm can't score .*System role not supported"):
        encode_for_reward(lm, system, "well")
    group = encode_for_reward(lm, ASK, "well")
    turns = [{"role": "user", "content": ASK[0].content}, {"role": "assistant", "content": "well"}]
    expected = lm.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert [*group.prompt, *group.responses[0]] == expected
