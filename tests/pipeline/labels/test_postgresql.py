"""`accord label` on a store in PostgreSQL does what it does on one in SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.cli import main
from accord.compare.dataset import load_records
from accord.compare.store.store import PreferenceStore
from accord.pipeline.labels.text import report_text
from accord.records import Comparison
from accord.settings.verdicts import VerdictFilter
from tests.annotate.desks import desk_of, vote
from tests.fake_openai import FakeOpenAi, judged_texts
from tests.pipeline.labels.stores import answer_by, fill, label, outcomes, prefers_no, prefers_yes
from tests.postgresql import PostgreSql

UNDECIDED = "question 1"
JUDGES = ("yes", "no", "unsure")


def panel_of(fake: FakeOpenAi) -> dict[str, Any]:
    """Three judges: one that another contradicts, and one that takes the first of one pair."""

    def unsure(body: Any) -> str:
        return "A" if judged_texts(body)["prompt"] == UNDECIDED else prefers_yes(body)

    fake.answer = answer_by(dict(zip(JUDGES, (prefers_yes, prefers_no, unsure), strict=True)))
    return {
        "judges": [{"base_url": fake.url, "model": model} for model in JUDGES],
        "quorum": 2,
    }


def stored(store: str) -> list[tuple[Any, ...]]:
    """All that the verdicts say, by the texts that they are on."""
    with PreferenceStore.read(store) as opened:
        texts = {r.id: r.response.text for r in opened.responses()}
        verdicts = opened.verdicts(history=True)
        answers = opened.judge_answers([v.id for v in verdicts])
        models = {key: judge.model for key, judge in opened.judges().items()}
        return [
            (
                v.annotator,
                v.outcome,
                v.source,
                models[v.judge or ""],
                [texts[item.response_id] for item in v.items],
                [[texts[id_] for id_ in answer.shown] for answer in answers[v.id]],
            )
            for v in verdicts
        ]


def test_a_panel_labels_resumes_escalates_and_trains_as_in_sqlite(
    fake: FakeOpenAi, postgresql: PostgreSql, tmp_path: Path
) -> None:
    values = panel_of(fake)
    stores = [postgresql.create(), str(tmp_path / "s.db")]
    reports, asked = [], []
    for store in stores:
        fill(store)
        reports.append(label(store, values, escalate=True))
        asked.append(len(fake.requests))
    assert asked == [36, 36]  # three judges, six pairs, both orders; SQLite's come from the cache
    assert stored(stores[0]) == stored(stores[1])
    assert len(stored(stores[0])) == 18
    assert reports[0].escalated == reports[1].escalated == 1
    assert "1 item for people (1 new), first in the queue" in report_text(reports[0])
    # Again: nothing is asked and nothing is added.
    report = label(stores[0], values, escalate=True)
    assert len(fake.requests) == 36
    assert (report.escalated, report.new, len(stored(stores[0]))) == (1, 0, 18)
    # A person decides the pair that the panel leaves open.
    with PreferenceStore.open(stores[0]) as opened:
        desk = desk_of(opened, items="escalated")
        assignment = desk.next("ada")
        assert assignment is not None
        (prompt,) = {
            str(r.response.prompt)
            for r in opened.responses()
            if r.id in assignment.item.response_ids
        }
        assert prompt == UNDECIDED
        vote(desk, "ada")
    reading = VerdictFilter(unchecked_judges=list(JUDGES))
    pairs, _ = load_records(stores[0], "preferences", verdict_filter=reading)
    labels = {str(p.prompt): p.probability for p in pairs if isinstance(p, Comparison)}
    assert labels.pop("question 0") is not None
    assert set(labels) >= {"question 2", "question 3", "question 4", "question 5"}


def test_the_command(
    fake: FakeOpenAi, postgresql: PostgreSql, capsys: pytest.CaptureFixture[str]
) -> None:
    url = fill(postgresql.create())
    with pytest.raises(SystemExit) as end:
        main(["label", url, f"base_url={fake.url}", "model=other"])
    assert not end.value.code
    assert "labels: 6 of 6 pairs have a winner" in capsys.readouterr().out
    assert outcomes(url) == {("other", None, "a"): 3, ("other", None, "b"): 3}
