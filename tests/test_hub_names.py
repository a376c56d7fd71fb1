"""Names on the hub are not taken for paths, nor paths for names."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.errors import ModelError
from accord.hub_names import is_hub_name, means_hub
from accord.lm.load import base_and_adapter

WITH_DOTS = ("Qwen/Qwen2.5-0.5B-Instruct", "meta-llama/Llama-3.2-1B", "mistralai/Mistral-7B-v0.1")
PATHS = ("owner/rows.jsonl", "owner/rows.jsonl.gz", "owner/model.safetensors", "owner/recipe.yaml")


def test_the_forms_of_hub_names() -> None:
    for name in ("owner/name", "o-w/n.a_m:train", "owner/name:config:train", *WITH_DOTS):
        assert is_hub_name(name)
    for name in ("name", "/owner/name", "./a/b", "a/b/c", "../b", "~/x", "owner/name:", "a/.b"):
        assert not is_hub_name(name)


@pytest.mark.parametrize("name", WITH_DOTS)
def test_a_model_whose_name_has_dots_is_on_the_hub(name: str) -> None:
    assert means_hub(name)
    assert base_and_adapter(name) == (name, None)


@pytest.mark.parametrize("name", [*PATHS, "gpt", "./owner/name", "runs/sft/model"])
def test_what_is_called_like_a_path_is_none(name: str) -> None:
    assert not means_hub(name)
    with pytest.raises(ModelError, match="No model folder"):
        base_and_adapter(name)


def test_a_folder_with_the_owners_name_has_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert means_hub("runs/sft")
    (tmp_path / "runs").mkdir()
    assert not means_hub("runs/sft")
