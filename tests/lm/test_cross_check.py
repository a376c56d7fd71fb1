"""Each architecture of the cross-check: accord's log-probs are those of plain transformers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from accord.lm.model import LanguageModel


def _study() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "studies" / "cross_check.py"
    spec = importlib.util.spec_from_file_location("cross_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cross_check"] = module
    spec.loader.exec_module(module)
    return module


STUDY = _study()


@pytest.mark.parametrize("name", STUDY.CONFIGURATIONS)
def test_log_probs_are_those_of_plain_transformers(name: str) -> None:
    agreement = STUDY.cross_check(name)
    # float32 rounding; the log-probs are around -5, where neighbours are 5e-7 apart.
    assert agreement.training < 2e-5
    assert agreement.sampling < 2e-5


def test_the_table_has_a_row_for_each_architecture() -> None:
    text = STUDY.table({"llama": STUDY.Agreement(True, 5e-7, 1e-6)})
    assert text.splitlines()[-1] == "| `llama` | yes | 5.0e-07 | 1.0e-06 |"
    assert len(STUDY.CONFIGURATIONS) >= 20


def test_positions_scaled_by_the_longest_row_limit_a_models_length() -> None:
    # Beyond its original length every row of a longrope model depends on the longest of its batch.
    lm = LanguageModel(STUDY.random_model("phi3"), STUDY.NoText(), "phi3")
    assert lm.inner.config.max_position_embeddings == 128
    assert lm.max_positions == 64
    plain = LanguageModel(STUDY.random_model("llama"), STUDY.NoText(), "llama")
    assert plain.max_positions == 128
