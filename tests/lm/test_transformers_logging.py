"""What libraries say while a model is loaded: nothing, or what matters in accord's words."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from transformers.utils import logging as transformers_logging

from accord.cli.quiet import quiet_libraries
from accord.lm.load import load_causal
from accord.lm.transformers_logging import in_own_words
from tests.lm.toys import save_toy, with_adapters

LIBRARY = transformers_logging.get_logger("transformers.tokenization_utils_tokenizers")


def test_a_warning_that_matters_is_said_once_in_own_words(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    handlers = list(logging.getLogger("transformers").handlers)
    with caplog.at_level(logging.WARNING, logger="accord"), in_own_words("my-model"):
        for _ in range(2):  # transformers' own words
            LIBRARY.warning(
                "The tokenizer you are loading from 'x' with an incorrect regex pattern"
            )
        LIBRARY.warning("Token indices sequence length is longer than the specified maximum")
    ours = [r for r in caplog.records if r.name.startswith("accord")]
    (message,) = [r.getMessage() for r in ours]
    assert message.startswith("The tokenizer of my-model splits text by a pattern")
    assert "fix_mistral_regex=True" in message
    assert capfd.readouterr().err == ""
    assert set(handlers) <= set(logging.getLogger("transformers").handlers)


def test_loading_and_adapting_a_model_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = save_toy(tmp_path / "toy", "gpt2")  # whose Conv1D layers make peft warn
    capfd.readouterr()
    with_adapters(load_causal(path), seed=0)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert [str(w.message) for w in recwarn if "accord" not in str(w.filename)] == []


def test_library_warnings_are_ignored_and_others_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASETS_VERBOSITY", "debug")
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        quiet_libraries()
        for module in ("transformers.modeling_utils", "peft", "torch.utils.data", "my_reward"):
            warnings.warn_explicit("careful", FutureWarning, "file.py", 1, module=module)
    assert len(shown) == 1  # the user's own
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
    assert os.environ["DATASETS_VERBOSITY"] == "debug"
    for name in ("TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM", "HF_HUB_VERBOSITY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_a_command_with_adapters_shows_only_accords_lines(tiny_world: Path, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "accord", "train", "sft", f"model={tiny_world / 'model'}"),
        f"dataset={tiny_world / 'demonstrations.jsonl'}",
        *(f"output_dir={tmp_path}", "max_steps=1", "lora=on", "gradient_checkpointing=true"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = ended.stdout + ended.stderr
    assert "Warning" not in shown
    assert "deprecated" not in shown
    assert "Loading" not in shown
