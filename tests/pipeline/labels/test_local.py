"""A local model as a judge: in `accord label`, `compare` and `accord judge check`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.compare.dataset import load_records
from accord.compare.judges.cache import CachedAnswer
from accord.compare.judges.letters import write_letters
from accord.compare.judges.local import LocalModel
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
from tests.fake_openai import judged_texts
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


def letters_for_yes(self: LocalModel, rows: Any) -> list[CachedAnswer]:
    """Instead of the model's: e^-0.2 for the response with a yes and e^-1.7 for the other; of
    question 3 the first shown has the former in both orders."""
    answers = []
    for _, ids in rows:
        text = self.lm.tokenizer.decode(list(ids))
        texts = judged_texts({"messages": [{"role": "user", "content": text}]})
        first = texts["response-A"].startswith("yes") or texts["prompt"] == "question 3"
        logps = (-0.2, -1.7) if first else (-1.7, -0.2)
        answers.append(CachedAnswer(write_letters(*logps), False, len(ids), 0))
    return answers


def test_its_probability_is_stored_and_becomes_a_soft_label(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalModel, "_letters", letters_for_yes)
    path = fill(tmp_path / "s.db", prompts=8)
    report = label(path, by_letters(folder))
    assert report.members[0].usage.calls == 16
    sure = 1 / (1 + math.exp(-1.5))  # e^-0.2 / (e^-0.2 + e^-1.7)
    with PreferenceStore.read(path) as store:
        verdicts = store.verdicts()
        answers = store.judge_answers([v.id for v in verdicts])
        texts = {r.id: r.response.text for r in store.responses()}
    assert Counter(v.outcome for v in verdicts) == {"a": 4, "b": 3, "undecided": 1}
    for verdict in verdicts:
        if verdict.outcome == "undecided":
            assert verdict.probability == pytest.approx(0.5)  # the mean of sure and 1 - sure
            continue
        a, b = (item.response_id for item in verdict.items)
        is_a = texts[a].startswith("yes")
        assert verdict.probability == pytest.approx(sure if is_a else 1 - sure)
        first, second = answers[verdict.id]
        assert (first.shown, second.shown) == ((a, b), (b, a))
        assert first.probability == pytest.approx(sure if is_a else 1 - sure)
        assert second.probability == pytest.approx(1 - sure if is_a else sure)
        assert (first.verdict, second.verdict) == (("A", "B") if is_a else ("B", "A"))
    soft = VerdictFilter(labels="probability", unchecked_judges=["letters"])
    rows, _ = load_records(path, "preferences", verdict_filter=soft)
    read = [r.probability for r in rows if isinstance(r, Comparison)]
    assert read == pytest.approx([sure] * 7)
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
