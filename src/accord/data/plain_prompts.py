"""Prompts that are plain text, for a model that expects conversations."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from accord.data.files import read_rows

_LOOKED_AT = 20


def plain_prompts_remark(model: str, data: str) -> str | None:
    """A remark where the first rows' prompts are text and `model` is a folder with a chat template.

    Such a prompt is learned and answered as it stands, without the template's roles, which is right
    for a base model and hardly ever for a chat model. None where either is unknown.
    """
    path = Path(data).expanduser()
    if (
        path.suffix == ".db"
        or not path.exists()
        or not _has_chat_template(Path(model).expanduser())
    ):
        return None
    prompts = [
        row.values.get("prompt") for row in islice(read_rows(data), _LOOKED_AT) if row.error is None
    ]
    plain = [text for text in prompts if isinstance(text, str) and not _is_dialogue(text)]
    if not plain or len(plain) < len(prompts):
        return None
    return (
        f"The prompts of {data} are plain text, and {model} has a chat template. They are trained "
        "on and answered without it, as text to continue. For a chat model, give each prompt as a "
        'conversation: {"prompt": [{"role": "user", "content": "…"}], …}. Answers stay text.'
    )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _is_dialogue(text: str) -> bool:
    """Whether the text may be read as a conversation (`dialogue_text`)."""
    return "Human:" in text and "Assistant:" in text
