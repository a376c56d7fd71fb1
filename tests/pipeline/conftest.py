"""A finished run of the tiny recipe, which the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.settings.recipe import Recipe, load_recipe

RECIPE = Path(__file__).with_name("tiny.yaml")


def tiny(output_dir: Path, *overrides: str) -> Recipe:
    return load_recipe(RECIPE, [f"output_dir={output_dir}", *overrides])


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny recipe, run once. Read only: copy it to change something."""
    from accord.pipeline import run_recipe

    folder = tmp_path_factory.mktemp("recipe") / "out"
    run_recipe(tiny(folder))
    return folder
