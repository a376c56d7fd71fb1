"""`accord label`: what is asked, stored, resumed and refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import accord
from accord.compare.dataset import load_records
from accord.compare.store.pairs import select_answered
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.errors import DataError, RequestError, SettingsError, WorkError
from accord.pipeline.labels import pairs
from accord.pipeline.labels.forecast import Forecast
from accord.pipeline.labels.label import decide
from accord.pipeline.labels.run import build_label_settings
from accord.pipeline.labels.text import forecast_text, report_text
from accord.records import Comparison, Response, Source
from accord.settings.reading.located import LocatedMapping
from accord.settings.verdicts import VerdictFilter
from tests.fake_openai import FakeOpenAi, completion, request_text
from tests.pipeline.labels.stores import fill, label, outcomes, run

CRITERIA = {"helpful": "Which helps more?", "honest": "Which is more honest?"}


def judge(fake: FakeOpenAi, model: str = "yes", **settings: Any) -> dict[str, Any]:
    return {"base_url": fake.url, "model": model, **settings}


def test_each_criterion_is_asked_by_itself_and_stored_under_its_name(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    report = label(path, {**judge(fake), "criteria": CRITERIA})
    # 6 pairs, in both orders, for each of two criteria.
    assert len(fake.requests) == report.members[0].usage.calls == 24
    for question, other in (("Which helps more?", "honest?"), ("Which is more honest?", "helps")):
        asked = [request_text(body) for body in fake.requests if question in request_text(body)]
        assert len(asked) == 12
        assert not any(other in text for text in asked)
    with PreferenceStore.read(path) as store:
        verdicts = store.verdicts()
        texts = {r.id: r.response.text for r in store.responses()}
        judges = store.judges()
        answers = store.judge_answers([v.id for v in verdicts])
    assert Counter(v.criterion for v in verdicts) == {"helpful": 6, "honest": 6}
    # The rubric is part of the fingerprint, so each criterion has one of its own.
    assert len({v.judge for v in verdicts}) == 2 == len(judges)
    for verdict in verdicts:
        a, b = (item.response_id for item in verdict.items)
        assert (verdict.outcome == "a") == texts[a].startswith("yes")
        assert [answer.shown for answer in answers[verdict.id]] == [(a, b), (b, a)]
        assert (verdict.source, verdict.annotator, verdict.round) == ("judge", "yes", 0)


def test_what_is_stored_or_cached_is_not_asked_again(fake: FakeOpenAi, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db")
    label(path, judge(fake))
    before = len(fake.requests)
    report = label(path, judge(fake))
    assert len(fake.requests) == before == 12
    assert (report.forecast.judges[0].stored, report.forecast.calls) == (6, 0)
    assert sum(outcomes(path).values()) == 6
    # Another store with the same texts: the answers are in the cache.
    again = label(fill(tmp_path / "other.db"), judge(fake))
    assert len(fake.requests) == before
    assert (again.forecast.judges[0].cached, again.members[0].usage.cached) == (12, 12)
    # Responses that are new are asked about, and they alone; of equal ones only the first.
    with PreferenceStore.open(path) as store:
        new = [
            Response("question 0", "yes green", "green"),
            Response("question 0", "no blue 0", "x"),
        ]
        store.add_responses(new)
    again = label(path, judge(fake))
    assert len(fake.requests) == before + 4  # with red and with blue, in both orders
    assert again.forecast.pairs == 8


def test_another_fingerprint_is_another_judge_whose_verdict_replaces_the_first(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    label(path, judge(fake))
    label(path, judge(fake, criterion="Which is ruder?"))
    with PreferenceStore.read(path) as store:
        assert len(store.verdicts()) == 6
        assert len(store.verdicts(history=True)) == 12
    # Back to the first: its verdicts are not the latest, and are added from the cache.
    before = len(fake.requests)
    label(path, judge(fake))
    assert len(fake.requests) == before
    with PreferenceStore.read(path) as store:
        assert len(store.verdicts(history=True)) == 18
        assert len({v.judge for v in store.verdicts()}) == 1


def test_a_verdict_that_names_the_pair_the_other_way_round_counts_as_it_says(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db", prompts=2)
    assert label(path, judge(fake)).members[0].outcomes == {"a": 1, "b": 1}
    with PreferenceStore.open(path) as store:
        (fingerprint,) = store.judges().values()
        # Response 1 says yes: of (2, 1) it is b, which is a of the pair as it is asked.
        store.add_verdicts([PairVerdict(2, 1, "b", "yes", source="judge", judge=fingerprint)])
    before = len(fake.requests)
    report = label(path, judge(fake))
    assert len(fake.requests) == before
    assert report.members[0].outcomes == {"a": 1, "b": 1}


def test_models_prompts_and_pairs_are_chosen(fake: FakeOpenAi, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db", models=("red", "blue", "green"))
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "question 1"}\n{"prompt": "question 4"}\n')
    report = label(path, {**judge(fake), "models": ["red", "green"], "prompts": str(prompts)})
    assert report.forecast.pairs == 2
    with PreferenceStore.read(path) as store:
        models = {r.id: r.response.model for r in store.responses()}
        seen = [{models[i.response_id] for i in v.items} for v in store.verdicts()]
    assert seen == [{"red", "green"}] * 2
    drawn = run(path, {**judge(fake), "pairs_per_prompt": 2, "seed": 3}, forecast_only=True)
    assert isinstance(drawn, Forecast)
    assert drawn.pairs == 12  # of 3 each
    with pytest.raises(DataError, match="Its models are blue, green, red"):
        run(path, {**judge(fake), "models": ["pink"]})
    prompts.write_text('{"prompt": "never asked"}\n')
    with pytest.raises(DataError, match="has two different responses"):
        run(path, {**judge(fake), "prompts": str(prompts)})


def test_a_panel_becomes_soft_labels_at_training(fake: FakeOpenAi, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db")
    values = {"judges": [judge(fake), judge(fake, "other"), judge(fake, "first")], "quorum": 2}
    report = label(path, values)
    # "first" takes the first in each order, so it is undecided; the others agree.
    assert outcomes(path)["first", None, "undecided"] == 6
    assert report.panel[None] == {"winner": 6}
    named = VerdictFilter(source="judge", min_votes=2, unchecked_judges=["yes", "other", "first"])
    rows, _ = load_records(path, "preferences", verdict_filter=named)
    assert {(r.chosen.split()[0], r.probability) for r in rows if isinstance(r, Comparison)} == {
        ("yes", None)
    }
    # A judge that disagrees: two of three votes are a soft label of 2/3.
    label(path, {**values, "judges": [judge(fake), judge(fake, "other"), judge(fake, "no")]})
    named = VerdictFilter(
        annotator=["yes", "other", "no"], min_votes=2, unchecked_judges=["yes", "other", "no"]
    )
    rows, _ = load_records(path, "preferences", verdict_filter=named)
    assert {round(r.probability or 0, 6) for r in rows if isinstance(r, Comparison)} == {0.666667}
    # Fewer votes than the quorum train nothing.
    named = VerdictFilter(
        annotator=["yes", "first"], min_votes=2, unchecked_judges=["yes", "first"]
    )
    with pytest.raises(DataError, match="fewer than 2 votes"):
        load_records(path, "preferences", verdict_filter=named)


@pytest.mark.parametrize(
    ("outcomes_of", "quorum", "decision"),
    [
        (["a"], 1, "winner"),
        (["undecided"], 1, "below the quorum"),
        ([], 1, "below the quorum"),
        (["a", "undecided"], 2, "below the quorum"),
        (["a", "b"], 2, "split evenly"),
        (["a", "b", "tie"], 2, "split evenly"),
        (["a", "tie"], 2, "winner"),
        (["tie", "both_bad"], 2, "tie"),
        (["b", "b", "a"], 3, "winner"),
    ],
)
def test_what_a_panel_decides(outcomes_of: list[str], quorum: int, decision: str) -> None:
    assert decide(outcomes_of, quorum) == decision


def test_the_forecast_asks_nothing_and_is_exact_about_calls(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    prices = {"prompt": 2.0, "cached": 0.5, "answer": 10.0}
    values = {"judges": [judge(fake, price_per_million=prices), judge(fake, "no")]}
    plan = run(path, {**values, "criteria": CRITERIA}, forecast_only=True)
    assert isinstance(plan, Forecast)
    assert not fake.requests
    assert [(j.questions, j.calls) for j in plan.judges] == [(12, 24), (12, 24)]
    first = plan.judges[0]
    assert first.prompt_tokens == first.characters / 4
    assert first.cost == pytest.approx((first.prompt_tokens * 2 + 24 * 100 * 10) / 1e6)
    assert "48 calls" in forecast_text(plan)
    report = label(path, {**values, "criteria": CRITERIA})
    assert [m.usage.calls for m in report.members] == [24, 24]
    # A server's token counts replace the guess: 20 and 3 for each call.
    with PreferenceStore.open(path) as store:
        store.add_responses([Response("question 0", "yes green", "green")])
    plan = run(path, {**values, "criteria": CRITERIA}, forecast_only=True)
    assert isinstance(plan, Forecast)
    first = plan.judges[0]
    assert (first.calls, first.answer_tokens) == (8, 24)
    assert first.prompt_tokens == pytest.approx(8 * 20, rel=0.05)  # requests are about as long


def test_spending_is_told_with_the_servers_cache_apart(fake: FakeOpenAi, tmp_path: Path) -> None:
    def answer(body: Any) -> tuple[int, Any]:
        reply = completion('{"verdict": "tie"}')
        reply["usage"] = {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 80},
        }
        return 200, reply

    fake.answer = answer
    prices = {"prompt": 2.0, "cached": 0.5, "answer": 10.0}
    report = label(fill(tmp_path / "s.db"), judge(fake, price_per_million=prices))
    text = report_text(report)
    assert "1,200 tokens of prompts (960 from the server's cache) and 120 of answers" in text
    # 12 calls: 20 tokens at 2, 80 at 0.5, 10 at 10 per million.
    assert report.to_json()["judges"][0]["cost"] == pytest.approx(12 * (40 + 40 + 100) / 1e6)
    assert "cost 0.00216" in text
    assert report.panel[None] == {"tie": 6}


def test_a_limit_on_cost_stops_and_the_same_command_resumes(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db", prompts=30)
    prices = {"prompt": 1.0, "answer": 1.0}  # a call of 23 tokens costs 0.000023
    values = judge(fake, price_per_million=prices, max_cost=23e-6 * 40, max_concurrent=1)
    plan = run(path, values, forecast_only=True)
    assert isinstance(plan, Forecast)
    assert "it stops at max_cost=" in forecast_text(plan)
    with pytest.raises(WorkError, match=r"max_cost=0\.00092 is reached, after 40 calls"):
        run(path, values)
    assert len(fake.requests) == 40
    assert sum(outcomes(path).values()) == 8  # the first batch; the other answers are cached
    label(path, judge(fake))
    assert len(fake.requests) == 60
    assert sum(outcomes(path).values()) == 30


def test_a_judge_that_gives_no_verdict_at_all_stops_early(fake: FakeOpenAi, tmp_path: Path) -> None:
    fake.answer = lambda body: (200, completion("I would rather not say."))
    path = fill(tmp_path / "s.db", prompts=60)
    with pytest.raises(WorkError, match="gave no verdict on any of 8 questions"):
        run(path, judge(fake, attempts=1))
    assert len(fake.requests) == 16  # 8 pairs in both orders, of 60
    few = fill(tmp_path / "few.db", prompts=2)
    with pytest.raises(WorkError, match="gave no verdict on any of 2 questions"):
        run(few, judge(fake, attempts=1))


def test_pairs_without_a_verdict_are_counted_and_do_not_stop_a_finished_store(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db")
    by_rule = fake.answer
    fake.answer = lambda body: (
        (200, completion("no idea")) if "question 3" in request_text(body) else by_rule(body)
    )
    report = label(path, judge(fake, attempts=2))
    assert (report.members[0].missing, report.panel[None]) == (
        1,
        {"winner": 5, "below the quorum": 1},
    )
    before = len(fake.requests)
    report = label(path, judge(fake, attempts=2))  # its answers are in the cache
    assert len(fake.requests) == before
    assert report.members[0].missing == 1
    assert report.forecast.calls == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "there is no judge"),
        ({"kind": "reward_model", "model": "r"}, "only language models are asked"),
        ({"model": "m"}, "does nothing with"),
        (
            {"judges": [{"base_url": "http://h:1/v1", "model": "m"}], "model": "x"},
            "gives one judge",
        ),
        (
            {"base_url": "http://h:1/v1", "model": "m", "quorum": 2},
            "1 judges can never reach",
        ),
        (
            {"judges": [{"base_url": "http://h:1/v1", "model": "m"}] * 2},
            "two judges are called 'm'",
        ),
        (
            {"base_url": "http://h:1/v1", "model": "m", "criterion": "x", "criteria": {"h": "y"}},
            "is not asked where there are `criteria`",
        ),
        ({"base_url": "http://h:1/v1", "model": "m", "max_cost": 1.0}, "needs `price_per_million`"),
        ({"base_url": "http://h:1/v1", "model": "m", "tie_margin": 0.1}, "verdict=probabilities"),
        ({"kind": "local", "model": "m", "base_url": "http://h:1/v1"}, "`kind=endpoint`"),
    ],
)
def test_settings_that_can_not_be(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        run(tmp_path / "s.db", values)


def test_what_is_no_store_and_what_is_no_criterion(fake: FakeOpenAi, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no preference store"):
        run("responses.jsonl", judge(fake))
    with pytest.raises(DataError, match=r"none\.db"):
        run(tmp_path / "none.db", judge(fake))
    assert not (tmp_path / "none.db").exists()
    path = fill(tmp_path / "s.db")
    with pytest.raises(RequestError, match="The criteria are helpful, honest"):
        run(path, {**judge(fake), "criteria": CRITERIA}, criteria=["kind"])
    with pytest.raises(RequestError, match=r"criteria\.kind="):
        run(path, judge(fake), criteria=["kind"])
    label(path, {**judge(fake), "criteria": CRITERIA}, criteria=["honest"])
    assert {criterion for _, criterion, _ in outcomes(path)} == {"honest"}
    label(path, judge(fake, criterion="Which is kinder?"), criteria=["kind"])
    assert {criterion for _, criterion, _ in outcomes(path)} == {"honest", "kind"}


def test_people_stay_as_they_are(fake: FakeOpenAi, tmp_path: Path) -> None:
    path = fill(tmp_path / "s.db")
    with PreferenceStore.open(path) as store:
        store.add_verdicts([PairVerdict(1, 2, "tie", "ada", source="person")])
    label(path, judge(fake))
    assert outcomes(path)["ada", None, "tie"] == 1


def test_labels_on_a_criterion_train_once_the_judge_has_passed_on_it(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    path = fill(tmp_path / "s.db", prompts=30)
    label(path, {**judge(fake, "other"), "criteria": CRITERIA})
    people = fill(tmp_path / "people.db", prompts=30)
    with PreferenceStore.open(people) as store:
        texts = {r.id: r.response.text for r in store.responses()}
        store.add_verdicts(
            [
                PairVerdict(
                    a,
                    a + 1,
                    "a" if texts[a].startswith("yes") else "b",
                    "ada",
                    source="person",
                    criterion="helpful",
                )
                for a in range(1, 61, 2)
            ]
        )
    asked = judge(fake, "other", criterion=CRITERIA["helpful"])
    assert accord.check_judge(people, asked, criterion="helpful", store=path, repeats=0).passed
    rows, report = load_records(path, "preferences", verdict_filter=VerdictFilter(source="judge"))
    assert len(rows) == 30
    assert all(isinstance(r, Comparison) and r.chosen.startswith("yes") for r in rows)
    assert {len(of) for of in report.dropped.values()} == {30}  # those on honest, unchecked


def test_a_few_prompts_are_in_memory_at_a_time(
    fake: FakeOpenAi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fill(tmp_path / "s.db", prompts=30)
    read: list[int] = []

    def watched(*arguments: Any) -> Any:
        rows = select_answered(*arguments)
        read.append(len(rows))
        return rows

    monkeypatch.setattr(pairs, "PROMPTS", 7)
    monkeypatch.setattr(pairs, "select_answered", watched)
    values = LocatedMapping(judge(fake), source=Source("test"))
    with PreferenceStore.open(path) as store:
        batches = pairs.PairSource.open(store, build_label_settings(values)).batches()
        assert len(next(batches)) == 8
        assert read == [7, 7]  # as many as the first batch takes
        assert [len(batch) for batch in batches] == [22]
    assert read == [7, 7, 7, 7, 2, 0]
