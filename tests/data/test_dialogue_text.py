"""Text that looks like a dialogue: turns where a chat template can render them, else text."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from accord.compare.dataset import load_records
from accord.data.columns import DialogueText
from accord.lm.tokens.template import how_to_read_dialogues
from accord.records import Comparison, Demonstration, Message, PromptOnly
from tests.lm.toys import toy_tokenizer

ASK = "\n\nHuman: how deep?\n\nAssistant:"
PAIR = {"chosen": ASK + " 9 m", "rejected": ASK + " no idea"}
KEPT = "dialogue text (Human:, Assistant:) stays text"


def load(rows: list[dict[str, Any]], kind: Any, how: DialogueText) -> tuple[Any, list[str]]:
    (record,), report = load_records(rows, kind, how)
    return record, report.notes


@pytest.mark.parametrize("how", ["keep", "no template"])
def test_text_stays_text(how: DialogueText) -> None:
    prompt, notes = load([{"prompt": ASK}], "prompts", how)
    assert isinstance(prompt, PromptOnly)
    assert prompt.prompt == ASK
    reason = ", as the tokenizer has no chat template" if how == "no template" else ""
    assert notes == [KEPT + reason]
    # The answer's blank is the text's, and the text goes on as it stands in the row.
    row = {"prompt": ASK, "completion": " 9 m"}
    demonstration, _ = load([row], "sft", how)
    assert isinstance(demonstration, Demonstration)
    assert (demonstration.prompt, demonstration.response) == (ASK, " 9 m")
    pair, notes = load(
        [{"prompt": ASK, "chosen": " 9 m", "rejected": " no idea"}], "comparisons", how
    )
    assert isinstance(pair, Comparison)
    assert (pair.prompt, pair.chosen, pair.rejected) == (ASK, " 9 m", " no idea")
    pair, notes = load([PAIR], "comparisons", how)
    assert (pair.prompt, pair.chosen, pair.rejected) == (ASK, " 9 m", " no idea")
    assert KEPT + reason in notes


def test_turns_are_the_default() -> None:
    pair, notes = load([PAIR], "comparisons", "turns")
    assert (pair.prompt, pair.chosen, pair.rejected) == (
        (Message("user", "how deep?"),),
        "9 m",
        "no idea",
    )
    assert notes == ["dialogue text (Human:, Assistant:) is read as turns"]


def test_a_tokenizer_without_a_template_reads_text() -> None:
    bare = copy.deepcopy(toy_tokenizer())
    bare.chat_template = None
    assert how_to_read_dialogues("turns", toy_tokenizer()) == "turns"
    assert how_to_read_dialogues("keep", toy_tokenizer()) == "keep"
    assert how_to_read_dialogues("turns", bare) == "no template"
    assert how_to_read_dialogues("keep", bare) == "keep"


def test_other_text_has_no_note(tmp_path: Path) -> None:
    for row in ({"prompt": "how deep?"}, {"prompt": "Human: who?"}):
        assert load([row], "prompts", "keep")[1] == []
