"""Tool calls, tools and thoughts are rendered as transformers renders the row itself."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from accord.data.read import records_from_rows
from accord.errors import DataError
from accord.lm.packing import PromptGroup
from accord.lm.tokens.encode import EncodeReport, Limits, LossOn, encode, encode_prompts
from accord.records import PromptOnly
from tests.lm.toys import toy_tokenizer

EOS = 2
CONTENT = "{% if m.content %}{{ m.content }}{% endif %}"
ASK_AGAIN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TOOLS = "{% if tools %}[{{ tools | tojson }}]{% endif %}"
LOOP = "{% for m in messages %}"


def template(turn: str, before: str = TOOLS) -> str:
    # Turns of a tool are written as the user's: the toy tokenizer has no token for their role.
    role = "{% set role = 'user' if m.role == 'tool' else m.role %}<|{{ role }}|>"
    end = "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    return before + LOOP + role + turn + end + ASK_AGAIN


# As Qwen's and Llama's templates write calls: an object as JSON.
WITH_JSON = template(
    CONTENT + "{% for c in m.tool_calls or [] %}({{ c.function | tojson }}){% endfor %}"
)
# As DeepSeek's: the arguments are text, and a turn has a call or a content.
WITH_TEXT = template(
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "({{ c.function.name + ' ' + c.function.arguments }}){% endfor %}"
    "{% else %}{{ m.content }}{% endif %}"
)
# As Qwen3's: either form of the arguments.
WITH_BOTH = template(
    CONTENT + "{% for c in m.tool_calls or [] %}({{ c.function.name }} {% if c.function.arguments "
    "is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}"
    "{% endif %}){% endfor %}"
)
# Writes whatever a content is, null too.
PLAIN = template(
    "{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function | tojson }}){% endfor %}"
)
IGNORES = template("{{ m.content }}", before="")

TOOL = {"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}
ARGUMENTS = {"of": "the sea", "in": "m"}


def call(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "depth", "arguments": arguments}}


def turns(arguments: Any, content: str | None) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "how deep is it"},
        {"role": "assistant", "content": content, "tool_calls": [call(arguments)]},
    ]


def with_template(text: str) -> Any:
    tokenizer = copy.deepcopy(toy_tokenizer())
    tokenizer.chat_template = text
    return tokenizer


def encoded(
    row: dict[str, Any], tokenizer: Any, loss_on: LossOn = "response"
) -> tuple[PromptGroup, EncodeReport]:
    records, _ = records_from_rows([row], "sft")
    eos_ids = frozenset({int(tokenizer.eos_token_id)})
    (group,), report = encode(records, tokenizer, Limits(500), eos_ids=eos_ids, loss_on=loss_on)
    return group, report


def expected_ids(tokenizer: Any, messages: list[dict[str, Any]], **context: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **context)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("text", "arguments", "content"),
    [
        (WITH_JSON, ARGUMENTS, "let me look"),
        (WITH_JSON, ARGUMENTS, ""),
        (WITH_JSON, ARGUMENTS, None),
        (WITH_TEXT, json.dumps(ARGUMENTS), None),
        (WITH_BOTH, ARGUMENTS, None),
        (WITH_BOTH, json.dumps(ARGUMENTS), ""),
        (PLAIN, ARGUMENTS, "let me look"),
    ],
)
def test_the_ids_are_those_of_the_row_rendered(text: str, arguments: Any, content: Any) -> None:
    tokenizer = with_template(text)
    last = turns(arguments, content)
    group, report = encoded({"messages": last, "tools": [TOOL]}, tokenizer)
    expected = expected_ids(tokenizer, last, tools=[TOOL])
    assert [*group.prompt, *group.responses[0]] == expected
    assert "depth" in tokenizer.decode(group.responses[0])
    assert report.unwritten == {}
    # The same turns earlier in a conversation.
    result = {"role": "tool", "content": "9"}
    whole = [*last, result, {"role": "assistant", "content": "9 m"}]
    group, _ = encoded({"messages": whole, "tools": json.dumps([TOOL])}, tokenizer)
    assert [*group.prompt, *group.responses[0]] == expected_ids(tokenizer, whole, tools=[TOOL])
    assert tokenizer.decode(group.responses[0]) == "9 m<|end|>"
    group, _ = encoded({"messages": whole, "tools": [TOOL]}, tokenizer, loss_on="assistant")
    (mask,) = group.loss_mask
    kept = [t for t, on in zip(group.responses[0], mask, strict=True) if on]
    learned = tokenizer.decode(kept)
    assert learned.count("<|end|>") == 2
    assert "depth" in learned
    assert "how deep" not in learned


# The form that the row has would be misread; the ids are those of the form that is not.
@pytest.mark.parametrize(
    ("text", "given", "readable"),
    [
        (WITH_JSON, (json.dumps(ARGUMENTS), ""), (ARGUMENTS, "")),  # text within text
        (WITH_TEXT, (ARGUMENTS, None), (json.dumps(ARGUMENTS), None)),  # it adds texts
        (PLAIN, (ARGUMENTS, None), (ARGUMENTS, "")),  # null may be written as None
        (PLAIN, (json.dumps(ARGUMENTS), None), (ARGUMENTS, "")),
    ],
)
def test_the_other_form_where_a_template_misreads_the_rows(
    text: str, given: tuple[Any, Any], readable: tuple[Any, Any]
) -> None:
    tokenizer = with_template(text)
    group, _ = encoded({"messages": turns(*given)}, tokenizer)
    assert [*group.prompt, *group.responses[0]] == expected_ids(tokenizer, turns(*readable))


def test_a_template_that_writes_no_calls_drops_the_row() -> None:
    tokenizer = with_template(IGNORES)
    for content in ("let me look", "", None):
        with pytest.raises(DataError, match="the chat template writes no tool_calls"):
            encoded({"messages": turns(ARGUMENTS, content)}, tokenizer)
    chosen, rejected = turns(ARGUMENTS, "a")[1:], [{"role": "assistant", "content": "b"}]
    pair = {"prompt": turns(ARGUMENTS, "a")[:1], "chosen": chosen, "rejected": rejected}
    records, _ = records_from_rows([pair], "comparisons")
    with pytest.raises(DataError, match="writes no tool_calls"):
        encode(records, tokenizer, Limits(500), eos_ids=frozenset({EOS}))
    records, _ = records_from_rows(
        [{"prompt": turns(ARGUMENTS, "a") + turns(1, "b")[:1]}], "prompts"
    )
    with pytest.raises(DataError, match="writes no tool_calls"):
        encode_prompts([r for r in records if isinstance(r, PromptOnly)], tokenizer, Limits(500))


def test_pairs_of_calls() -> None:
    tokenizer = with_template(WITH_JSON)
    prompt = turns(ARGUMENTS, "")[:1]
    answers = [turns({"of": what}, "")[1:] for what in ("sea", "lake")]
    row = {"prompt": prompt, "chosen": answers[0], "rejected": answers[1], "tools": [TOOL]}
    records, _ = records_from_rows([row], "comparisons")
    (group,), _ = encode(records, tokenizer, Limits(500), eos_ids=frozenset({EOS}))
    for ids, answer in zip(group.responses, answers, strict=True):
        assert [*group.prompt, *ids] == expected_ids(tokenizer, prompt + answer, tools=[TOOL])


def test_thoughts_and_documents_go_to_the_template() -> None:
    tokenizer = with_template(
        template(
            "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}",
            before="{% for d in documents or [] %}[{{ d.text }}]{% endfor %}",
        )
    )
    row = turns(1, "9 m")
    row[1] = {"role": "assistant", "content": "9 m", "reasoning_content": "the sea"}
    documents = [{"text": "a dog"}]
    group, report = encoded({"messages": row, "documents": documents}, tokenizer)
    expected = expected_ids(tokenizer, row, documents=documents)
    assert [*group.prompt, *group.responses[0]] == expected
    assert report.unwritten == {}


def test_fields_that_the_template_leaves_out_are_named() -> None:
    tokenizer = with_template(IGNORES)
    row = [
        {"role": "user", "content": "how deep", "name": "Ann"},
        {"role": "assistant", "content": "9 m", "reasoning_content": "the sea"},
    ]
    _, report = encoded({"messages": row, "tools": [TOOL]}, tokenizer)
    assert report.unwritten == {"name": 1, "reasoning_content": 1, "tools": 1}
    assert "the chat template does not write `tools` (of 1 rows)" in report.summary()


def test_a_call_that_spells_a_control_token_is_refused() -> None:
    with pytest.raises(DataError, match="spells the control token"):
        encoded({"messages": turns({"of": "x<|end|><|user|>"}, "")}, with_template(WITH_JSON))
