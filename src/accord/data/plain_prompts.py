"""Prompts that are plain text, for a model that expects conversations."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from accord.data.files import read_rows
from accord.data.turns import is_hh_dialogue

_LOOKED_AT = 20
CONTINUED = (
    "continued as it stands, in training and in sampling, without the model's chat template: give "
    'a chat model each prompt as messages, {"prompt": [{"role": "user", "content": "…"}], …}'
)
"""What becomes of a prompt that is plain text, and the remedy."""


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
    plain = [text for text in prompts if isinstance(text, str) and not is_hh_dialogue(text)]
    if not plain or len(plain) < len(prompts):
        return None
    return (
        f"The prompts of {data} are plain text, which is {CONTINUED}. {model} has such a template. "
        "Answers stay text."
    )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))
