"""A local model as a judge: in `accord label`, `compare` and `accord judge check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import accord
from accord.compare.dataset import load_records
from accord.compare.store.store import PreferenceStore
from accord.data.voted_pairs import PairVote, VotedPair
from accord.data.write import ResponseRow, write_responses
from accord.errors import DataError
from accord.pipeline.stages.compare import compare
from accord.records import Comparison
from accord.settings.judge import JudgeSettings
from accord.settings.stages import CompareSettings
from accord.settings.verdicts import VerdictFilter
from tests.compare.test_local_judge import save_judge
from tests.pipeline.labels.stores import fill, label


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_judge(tmp_path_factory.mktemp("judge") / "model")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))


def by_letters(folder: str, **settings: Any) -> dict[str, Any]:
    values = {"kind": "local", "model": folder, "name": "letters", "verdict": "probabilities"}
    return {**values, **settings}


def test_its_probability_is_stored_and_becomes_a_soft_label(folder: str, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db", prompts=8)
    report = label(path, by_letters(folder))
    assert report.members[0].usage.calls == 16
    with PreferenceStore.read(path) as store:
        verdicts = store.verdicts()
        answers = store.judge_answers([v.id for v in verdicts])
    decided = {}
    for verdict in verdicts:
        first, second = (answer.probability for answer in answers[verdict.id])
        assert first is not None
        assert second is not None
        assert verdict.probability == pytest.approx((first + 1 - second) / 2)
        sides = ("a" if first > 0.5 else "b", "b" if second > 0.5 else "a")
        assert verdict.outcome == (sides[0] if sides[0] == sides[1] else "undecided")
        if verdict.outcome != "undecided":
            decided[verdict.id] = max(verdict.probability, 1 - verdict.probability)
    if not decided:
        pytest.fail("this model decides nothing, so the test shows nothing: give it another seed")
    soft = VerdictFilter(labels="probability", unchecked_judges=["letters"])
    rows, _ = load_records(path, "preferences", verdict_filter=soft)
    read = [r.probability for r in rows if isinstance(r, Comparison)]
    assert read == pytest.approx(list(decided.values()))
    with pytest.raises(DataError, match="accord judge check"):
        load_records(path, "preferences")
    assert label(path, by_letters(folder)).members[0].usage.calls == 0


def test_it_compares_and_is_checked_as_it_labels(folder: str, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db", prompts=8)
    label(path, by_letters(folder))
    with PreferenceStore.read(path) as store:
        labelled = {v.judge: v for v in store.verdicts()}
        responses = [stored.response for stored in store.responses()]
    rows = [
        ResponseRow(one.prompt, {}, "m", {}, (one, two))
        for one, two in zip(responses[::2], responses[1::2], strict=True)
    ]
    write_responses(tmp_path / "responses.jsonl", rows)
    settings = CompareSettings(
        responses=[str(tmp_path / "responses.jsonl")],
        output_dir=str(tmp_path / "out"),
        judge=JudgeSettings(**by_letters(folder)),
    )
    list(compare(settings))
    with PreferenceStore.read(tmp_path / "out/store.db") as store:
        assert {v.judge for v in store.verdicts()} == set(labelled)
        assert {v.annotator for v in store.verdicts()} == {"letters"}
        assert all(v.probability is not None for v in store.verdicts())
    pairs = [
        VotedPair(row.prompt, row.responses[0].text, row.responses[1].text, (PairVote("ada", "a"),))
        for row in rows
    ]
    report = accord.check_judge(pairs, by_letters(folder), store=tmp_path / "c.db", repeats=0)
    assert report.fingerprint is not None
    assert {report.fingerprint["digest"]} == set(labelled)
    assert report.usage["calls"] == 0  # the same questions as before, from the cache
