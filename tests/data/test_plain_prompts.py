"""Plain prompts for a chat model are remarked on, and only those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.data.plain_prompts import plain_prompts_remark

TURNS = [{"role": "user", "content": "Why?"}]


def write(path: Path, prompts: list[Any]) -> str:
    rows = [{"prompt": p, "chosen": "a", "rejected": "b"} for p in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def chat_model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/chat_template.jinja").write_text("{{ messages }}")
    return str(tmp_path / "model")


def test_plain_prompts_for_a_chat_model_are_remarked_on(tmp_path: Path, chat_model: str) -> None:
    remark = plain_prompts_remark(chat_model, write(tmp_path / "a.jsonl", ["Why?", "How?"]))
    assert remark is not None
    assert '[{"role": "user", "content"' in remark


@pytest.mark.parametrize(
    "prompts", [[TURNS], ["Why?", TURNS], ["\n\nHuman: Why?\n\nAssistant:"]], ids=str
)
def test_conversations_are_not(tmp_path: Path, chat_model: str, prompts: list[Any]) -> None:
    assert plain_prompts_remark(chat_model, write(tmp_path / "a.jsonl", prompts)) is None


def test_what_is_not_known_is_not_remarked_on(tmp_path: Path, chat_model: str) -> None:
    path = write(tmp_path / "a.jsonl", ["Why?"])
    assert plain_prompts_remark(str(tmp_path), path) is None
    assert plain_prompts_remark("owner/name", path) is None
    assert plain_prompts_remark(chat_model, "owner/data") is None
    assert plain_prompts_remark(chat_model, str(tmp_path / "store.db")) is None
    config = Path(chat_model) / "tokenizer_config.json"
    (Path(chat_model) / "chat_template.jinja").unlink()
    config.write_text('{"chat_template": "{{ messages }}"}')
    assert plain_prompts_remark(chat_model, path) is not None
    for broken in ("[]", "{", '{"chat_template": null}'):
        config.write_text(broken)
        assert plain_prompts_remark(chat_model, path) is None
