"""Labels of a language model: what is stored with them, and when they train."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.compare.dataset import load_records
from accord.compare.store.store import PreferenceStore
from accord.data.voted_pairs import PairVote, VotedPair
from accord.data.write import ResponseRow, write_responses
from accord.errors import DataError, SettingsError
from accord.pipeline import run_stage
from accord.pipeline.stages.compare import compare
from accord.records import Response
from accord.respond import http as attempts
from accord.settings.judge import JudgeSettings
from accord.settings.recipe import single_stage
from accord.settings.stages import CompareSettings
from accord.settings.verdicts import VerdictFilter
from tests.fake_openai import FakeOpenAi, Reply, completion, judged_texts, prefers

ANSWERS: dict[str, tuple[str, ...]] = {
    f"question {n}": ("yes " * (n + 1), "no " * (n + 1)) for n in range(6)
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    server.answer = prefers(lambda text: "yes" in text)
    yield server
    server.close()


def label(fake: FakeOpenAi, folder: Path, form: Any = "pairs", **judge: Any) -> str:
    """The store of a compare stage."""
    rows = [
        ResponseRow(prompt, {}, "base", {}, tuple(Response(prompt, t, "base") for t in texts))
        for prompt, texts in ANSWERS.items()
    ]
    write_responses(folder / "responses.jsonl", rows)
    settings = CompareSettings(
        responses=[str(folder / "responses.jsonl")],
        output_dir=str(folder / form),
        judge=JudgeSettings(kind="endpoint", base_url=fake.url, model="m", **judge),
        form=form,
    )
    list(compare(settings))
    return str(folder / form / "store.db")


def voted_pairs() -> list[VotedPair]:
    pairs = []
    for n in range(30):
        a, b = ("yes", f"no {n}") if n % 2 else (f"no {n}", "yes")
        pairs.append(VotedPair(f"prompt {n}", a, b, (PairVote("ada", "a" if n % 2 else "b"),)))
    return pairs


def test_a_verdict_has_the_judges_fingerprint_and_its_answers(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    with PreferenceStore.read(label(fake, tmp_path)) as store:
        verdicts = store.verdicts()
        answers = store.judge_answers([v.id for v in verdicts])
        texts = {stored.id: stored.response.text for stored in store.responses()}
        (fingerprint,) = store.judges().values()
    assert (fingerprint.model, fingerprint.endpoint) == ("m", fake.url)
    assert {(v.source, v.judge) for v in verdicts} == {("judge", fingerprint.digest)}
    for verdict in verdicts:
        ids = tuple(item.response_id for item in verdict.items)
        first, second = answers[verdict.id]
        assert (first.shown, second.shown) == (ids, ids[::-1])
        # In each order the letter is that of the response with a yes.
        for answer in (first, second):
            yes_first = "yes" in texts[answer.shown[0]]
            assert answer.verdict == ("A" if yes_first else "B")
            assert json.loads(answer.text)["verdict"] == answer.verdict


@pytest.mark.parametrize("form", ["rankings", "best_worst", "labels"])
def test_a_ranking_has_the_answers_on_all_its_pairs(
    fake: FakeOpenAi, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANSWERS, "question 0", ("yes", "no", "yes yes"))
    fake.answer = prefers(lambda text: text.count("yes"))
    with PreferenceStore.read(label(fake, tmp_path, form)) as store:
        texts = {stored.id: stored.response.text for stored in store.responses()}
        verdicts = store.verdicts()
        answers = store.judge_answers([v.id for v in verdicts])
    if form == "labels":  # of one response each, which no answer is about
        assert not any(answers.values())
        return
    first = verdicts[0]
    assert len(first.items) == (3 if form == "rankings" else 2)
    # Each pair in both orders, and in each the letter of the one with more of yes.
    assert [a.shown[::-1] for a in answers[first.id][::2]] == [
        a.shown for a in answers[first.id][1::2]
    ]
    shown = {tuple(sorted(answer.shown)) for answer in answers[first.id]}
    judged = sorted(item.response_id for item in first.items)  # of two its best and its worst
    assert shown == set(itertools.combinations(judged, 2))
    assert {texts[id_] for id_ in judged} >= {"no", "yes yes"}
    for answer in answers[first.id]:
        a, b = (texts[id_].count("yes") for id_ in answer.shown)
        assert answer.verdict == json.loads(answer.text)["verdict"] == ("A" if a > b else "B")
    of_first = 6 if form == "rankings" else 2
    assert [len(answers[v.id]) for v in verdicts] == [of_first, 2, 2, 2, 2, 2]


def test_orders_that_disagree_are_undecided_and_apart_from_ties(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    def first_or_tie(body: Any) -> Reply:
        """The first, but a tie on two of the six questions."""
        prompt = judged_texts(body)["prompt"]
        verdict = "tie" if prompt in ("question 0", "question 1") else "A"
        return 200, completion(json.dumps({"reason": "so", "verdict": verdict}))

    fake.answer = first_or_tie
    with PreferenceStore.read(label(fake, tmp_path)) as store:
        outcomes = [v.outcome for v in store.verdicts()]
        assert store.battles() == []
    assert sorted(str(outcome) for outcome in outcomes) == ["tie"] * 2 + ["undecided"] * 4


@pytest.mark.parametrize("form", ["pairs", "rankings", "best_worst", "labels"])
def test_labels_train_once_the_judge_has_passed(
    fake: FakeOpenAi, tmp_path: Path, form: Any
) -> None:
    store = label(fake, tmp_path, form)
    kind: Any = "kto" if form == "labels" else "preferences"
    with pytest.raises(DataError, match="A check in another store counts"):
        load_records(store, kind)
    by_name = VerdictFilter(unchecked_judges=["m"])
    count = 12 if form == "labels" else 6
    assert len(load_records(store, kind, verdict_filter=by_name)[0]) == count
    checks = tmp_path / "people.db"
    judge = {"base_url": fake.url, "model": "m"}
    assert accord.check_judge(voted_pairs(), judge, store=checks, repeats=0).passed
    by_check = VerdictFilter(judge_checks=str(checks))
    assert len(load_records(store, kind, verdict_filter=by_check)[0]) == count
    # Another criterion makes it another judge, whose labels have not passed.
    other = label(fake, tmp_path / "other", form, criterion="Which is ruder?")
    with pytest.raises(DataError, match="accord judge check"):
        load_records(other, kind, verdict_filter=by_check)


def test_a_later_check_that_fails_voids_the_pass(
    fake: FakeOpenAi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, checks = label(fake, tmp_path), tmp_path / "people.db"
    judge = {"base_url": fake.url, "model": "m"}
    assert accord.check_judge(voted_pairs(), judge, store=checks, repeats=0).passed
    fake.answer = prefers(lambda text: "no" in text)  # the model behind the name has changed
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "another cache"))
    assert not accord.check_judge(voted_pairs(), judge, store=checks, repeats=0).passed
    with pytest.raises(DataError, match="accord judge check"):
        load_records(store, "preferences", verdict_filter=VerdictFilter(judge_checks=str(checks)))


def test_rounds_refuse_an_unchecked_judge_before_it_is_asked(
    fake: FakeOpenAi, tiny_run: Path, tmp_path: Path
) -> None:
    overrides = [
        f"dataset={tiny_run}/world/train_prompts.jsonl",
        f"model={tiny_run}/sft/model",
        f"output_dir={tmp_path / 'out'}",
        "judge.kind=endpoint",
        f"judge.base_url={fake.url}",
        "judge.model=m",
        "rounds=1",
    ]
    with pytest.raises(SettingsError, match=r"train\.filter\.unchecked_judges=\[m\]"):
        run_stage(single_stage("iterate", overrides=overrides))
    assert not fake.requests
    missing = [*overrides, f"train.filter.judge_checks={tmp_path / 'none.db'}"]
    with pytest.raises(DataError, match=r"none\.db"):
        run_stage(single_stage("iterate", overrides=missing))
    assert not fake.requests
