"""A model that was trained on 4 bits is trained further in memory."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import pytest

import accord
from accord.api.models import model_values
from accord.errors import SettingsError
from accord.lm.load import load_causal
from tests.learn.toys.files import user_says
from tests.lm.test_quantised import save_family

PAIRS = [{"prompt": user_says("the cat"), "chosen": "sat on the mat", "rejected": "ran away"}] * 4


@pytest.mark.skipif(
    util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra `quantization`)"
)
def test_training_goes_on_with_the_same_base(tmp_path: Path) -> None:
    base = save_family(tmp_path / "base", "llama")
    options = {"max_steps": 1, "max_length": 64, "device": "cpu"}
    first = accord.train(
        "dpo", model=base, dataset=PAIRS, quantization="nf4", lora={"r": 2}, **options
    )
    assert first.model.is_quantised
    _, values = model_values(first.model, None, identify=False)
    assert values["quantization"] == "nf4"
    second = accord.train("dpo", model=first.model, dataset=PAIRS, **options)
    assert second.model.model is first.model.model
    assert second.settings.quantization == "nf4"
    with pytest.raises(SettingsError, match=r"without `lora` they would be trained"):
        accord.train("dpo", model=load_causal(base, quantization="nf4"), dataset=PAIRS, **options)
