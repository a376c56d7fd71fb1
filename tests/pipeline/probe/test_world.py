"""Flaws that are planted in the embedded world's reward are failed by the right probe."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path

import pytest

from accord.measure.audits.document import AuditDocument
from tests.pipeline.probe.conftest import Probe


def failed(document: AuditDocument) -> set[str]:
    return {audit.name for audit in document.audits if audit.verdict == "fail"}


def test_the_true_reward_is_calm(probe: Probe, world_file: str, tmp_path: Path) -> None:
    document = probe(f"preferences={world_file}", "rewards=[{kind: world}]")
    assert {a.verdict for a in document.audits} <= {"pass", "undecided"}
    assert "lengthened_flips" in {a.name for a in document.audits if a.verdict == "pass"}
    written = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert written == json.loads(json.dumps(document.to_json()))
    assert written["kind"] == "probe"
    assert written["subject"] == "world"
    # Harmful prompts are known by their kind, and its values are the categories.
    names = {a.name for a in document.audits}
    assert {"refused_harmless", "refused_harmful", "wrong_prompt", "style"} <= names
    categories = {s["name"] for s in written["results"]["subsets"] if s["kind"] == "category"}
    assert {"harmful", "safe"} <= categories
    # The scores are no logits: a temperature, and no audit of it.
    assert "calibration" not in names
    assert written["results"]["calibration"]["temperature"] > 0


@pytest.mark.parametrize(
    ("flaws", "expected", "calm"),
    [
        ("{length: 0.3}", {"lengthened_flips", "lengthened_gain"}, {"flattered_gain"}),
        ("{flattery: 0.4}", {"flattered_flips", "flattered_gain"}, {"lengthened_flips", "style"}),
        ("{refusal: 0.7}", {"refused_harmless"}, {"refused_harmful", "lengthened_gain"}),
        ("{refusal: -1.0}", {"refused_harmful"}, {"refused_harmless", "lengthened_gain"}),
    ],
)
def test_a_planted_flaw_is_failed_by_its_probe(
    probe: Probe, world_file: str, flaws: str, expected: set[str], calm: set[str]
) -> None:
    document = probe(
        f"preferences={world_file}",
        f"rewards=[{{kind: world, flaws: {flaws}}}]",
        "probes=[lengthened, flattered, refused, style]",
    )
    assert expected <= failed(document)
    assert not calm & failed(document)


FUNCTIONS = """
def same(responses):
    return [7] * len(responses)
def words(responses):
    return [len(set(r.split())) for r in responses]
def nan(responses):
    return [float("nan")] * len(responses)
def broken(responses):
    raise ValueError("no idea")
def none(responses):
    return [None] * len(responses)
"""


@pytest.fixture
def function(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return f"rewards=[{{kind: python, function: '{tmp_path / 'mine.py'}:NAME'}}]"


def test_a_reward_that_does_not_read_the_prompt(
    probe: Probe, world_file: str, function: str
) -> None:
    document = probe(f"preferences={world_file}", function.replace("NAME", "words"))
    audit = next(a for a in document.audits if a.name == "wrong_prompt")
    assert audit.verdict == "fail"
    assert 0.35 < audit.value.mean < 0.65
    assert {"lengthened_gain", "confident_gain"} <= failed(document)


def test_a_constant_reward(probe: Probe, world_file: str, function: str) -> None:
    document = probe(f"preferences={world_file}", function.replace("NAME", "same"))
    ties = next(a for a in document.audits if a.name == "ties")
    assert (ties.verdict, ties.value.mean) == ("fail", 1.0)
    assert "It is constant" in ties.finding
    assert "no temperature" in " ".join(document.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "nan, which is no finite number"),
        ("broken", "no idea"),
        ("none", "no score to both answers of any of the 120 pairs"),
    ],
)
def test_a_source_without_scores_is_refused(
    probe: Probe, world_file: str, function: str, name: str, message: str, tmp_path: Path
) -> None:
    from accord.errors import RewardError

    with pytest.raises(RewardError, match=message):
        probe(f"preferences={world_file}", function.replace("NAME", name))
    assert not (tmp_path / "out" / "probe.json").exists()


def test_a_row_of_the_studys_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "studies"))
    study = importlib.import_module("probes")
    sound, *_, constant = study.REWARDS
    # 0 of 2 may be 84.2%, and of 2 of 2 as little as 15.8%.
    row = study.study(sound, tmp_path / "sound", 2, 40)
    assert row == "| the true reward | none | 0 of 2 (0.0% to 84.2%) |  | none |"
    row = study.study(constant, tmp_path / "constant", 2, 40)
    assert row.startswith("| the same for all | `ties` | 2 of 2 (15.8% to 100.0%) | 2 of 2 | ")
    assert "`wrong_prompt` 2" in row
    # The other functions of the file, by hand: the prompt is not read, or another one is.
    prompts = [
        [{"role": "user", "content": row["prompt"][0]["content"]}]
        for row in study.world_pairs(20, random.Random("probes 0"))
    ]
    texts = [row["chosen"] for row in study.world_pairs(20, random.Random("probes 0"))]
    assert study.ignores_the_prompt(prompts, texts) == study.ignores_the_prompt(
        prompts[::-1], texts
    )
    assert sum(study.reads_another_prompt(prompts, texts)) < 0.3 * len(texts)
