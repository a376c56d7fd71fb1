"""The ids of a row against those that TRL's SFTTrainer trains on, by its own code.

Runs where a Python with TRL is named by ACCORD_TRL_PYTHON, or is in `.venv-trl` in the
repository's root.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from accord.lm.tokens.answers import encode_answers
from accord.records import Message
from tests.conftest import ROOT
from tests.lm.tokens.templates import TEMPLATES
from tests.lm.tokens.tokenizers import eos_ids, make_tokenizer

NAMED_PYTHON = os.environ.get("ACCORD_TRL_PYTHON")
TRL_PYTHON = Path(NAMED_PYTHON or ROOT / ".venv-trl" / "bin" / "python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (NAMED_PYTHON or TRL_PYTHON.exists()),
        reason="no Python with TRL: name one by ACCORD_TRL_PYTHON, or install it in .venv-trl",
    ),
]

# SFTTrainer's preparation of a data set, without a model: it reads no more of the trainer.
ORACLE = """
import json, sys
from types import SimpleNamespace
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer
job = json.load(open(sys.argv[1]))
result = {}
for folder in job["tokenizers"]:
    made = AutoTokenizer.from_pretrained(folder)
    trainer = SimpleNamespace(
        _tokenizer=made, _is_vlm=False, chat_template=None, completion_only_loss=False
    )
    args = SFTConfig(output_dir=sys.argv[2], report_to=[], bf16=False, max_length=None)
    result[folder] = []
    for rows in job["rows"]:
        data = Dataset.from_list(rows)
        data = SFTTrainer._prepare_dataset(trainer, data, made, args, False, None, "train")
        result[folder].append([[r["input_ids"], r["completion_mask"]] for r in data])
print(json.dumps(result))
"""
TEXTS = [("how do you feel?\n", "good day"), ("how do you feel?", " well, no"), ("good d", "ay")]
KINDS = ("byte-level", "prepend", "metaspace first", "metaspace always", "unigram", "tiktoken")
NAMES = ("chatml", "mistral1", "llama3", "r1", "zephyr")


def conversation(prompt: str, completion: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("trl")
    folders = []
    for kind in KINDS:
        for name in NAMES:
            path = folder / f"{kind} {name}"
            make_tokenizer(kind, TEMPLATES[name]).save_pretrained(path)
            folders.append(str(path))
    rows = [
        [{"prompt": p, "completion": c} for p, c in TEXTS],
        [conversation(p, c) for p, c in TEXTS],
    ]
    job = folder / "job.json"
    job.write_text(json.dumps({"tokenizers": folders, "rows": rows}))
    done = subprocess.run(
        [TRL_PYTHON, "-c", ORACLE, str(job), str(folder / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {Path(path).name: value for path, value in result.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_trl(kind: str, expected: dict[str, Any]) -> None:
    for name in NAMES:
        made = make_tokenizer(kind, TEMPLATES[name])
        ends = eos_ids(made, TEMPLATES[name])
        for is_chat, rows in enumerate(expected[f"{kind} {name}"]):
            for (prompt, completion), (ids, mask) in zip(TEXTS, rows, strict=True):
                asked = (Message("user", prompt),) if is_chat else prompt
                encoded = encode_answers(asked, [completion], made, ends)
                row = [*encoded.prompt, *encoded.responses[0]]
                # TRL also learns what the template writes behind the end.
                assert row == ids[: len(row)]
                assert len(row) == len(ids) or (is_chat and name in ("chatml", "zephyr"))
                assert len(encoded.prompt) == mask.index(1)
