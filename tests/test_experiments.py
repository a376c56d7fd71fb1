"""The experiments of the pages in docs/learn: what they share, and that a few of them run."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = Path(__file__).resolve().parent.parent / "docs" / "learn" / "experiments"
RUN = ("preferences-after-sft", "kl-penalty", "dpo")
PROMPT = "Remind the club of the lesson on Sunday."


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `experiment`, as the scripts import it."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import experiment

    yield experiment
    sys.modules.pop("experiment")


def start(shared: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["name.py", *arguments])
    return shared.Experiment("docs/learn/experiments/name.py", "What is tried.")


def test_a_figure_is_the_same_bytes_twice_in_light_and_dark(
    shared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    experiment = start(shared, monkeypatch, "--quick", "--output-dir", str(tmp_path))

    def draw(axes: Any, colours: Any) -> None:
        axes.plot([0, 1], [0, 1], color=colours[0], label=r"$\beta$ = 0.1")
        axes.legend()

    contents = []
    for _ in range(2):
        experiment.save(draw, ["beta", "reward"], [["0.1", "0.71 ± 0.02"]], note="Three seeds.")
        folder = tmp_path / "figures"
        contents.append([(folder / f"name{end}").read_bytes() for end in (".svg", "-dark.svg")])
    assert contents[0] == contents[1]
    light, dark = contents[0]
    assert light != dark
    assert b"<dc:date>" not in light
    table, _, line = (folder / "name.md").read_text(encoding="utf-8").partition("\n\n")
    assert table.splitlines() == ["| beta | reward |", "| --- | --- |", "| 0.1 | 0.71 ± 0.02 |"]
    assert line.startswith("Three seeds. `python docs/learn/experiments/name.py`, ")


def test_figures_go_to_the_docs_only_without_quick(
    shared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shared, "FIGURES", tmp_path / "docs")
    experiment = start(shared, monkeypatch, "--output-dir", str(tmp_path / "runs"))
    experiment.save(lambda axes, colours: None, ["a"], [["1"]])
    assert (tmp_path / "docs" / "name.svg").is_file()
    assert not (tmp_path / "runs").exists()
    assert experiment.size(200, 8) == 200
    assert start(shared, monkeypatch, "--quick").size(200, 8) == 8


def test_annotators_without_noise_rank_by_the_truth_and_a_flaw_changes_that(shared: Any) -> None:
    # Fifty words are far too long, so the true reward is 0; at 1 for ten words they gain 5.
    texts = ("", "many words " * 25)
    row = shared.accord.PromptAnswers(PROMPT, texts, (True, True), (0.0, 0.0))
    answers = shared.accord.Answers("sft", (row,))
    assert shared.true_reward([PROMPT, PROMPT], texts) == [0.0, 0.0]
    assert shared.rank(answers, noise=0)[0]["ranks"] == [0, 0]
    flawed = shared.rank(answers, noise=0, length=1.0)[0]
    assert flawed == {"prompt": PROMPT, "responses": list(texts), "ranks": [1, 0]}


def test_experiments_run_on_a_few_rows(
    shared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in RUN:  # one test: all of them use the models that the first one trains
        script = EXPERIMENTS / f"{name}.py"
        folders = ["--output-dir", str(tmp_path / name), "--demo", str(tmp_path / "demo")]
        monkeypatch.setattr(sys, "argv", [str(script), "--quick", *folders])
        runpy.run_path(str(script), run_name="__main__")
        for ending in (".svg", "-dark.svg", ".md"):
            assert (tmp_path / name / "figures" / f"{name}{ending}").is_file()
