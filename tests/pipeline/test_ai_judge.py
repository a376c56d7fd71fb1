"""Stages with a judge at an endpoint: verdicts, battles, best-of-N, GRPO, a round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from accord.compare.store.store import PreferenceStore
from accord.data.write import ResponseRow, read_responses, write_responses
from accord.errors import WorkError
from accord.pipeline import run_stage
from accord.pipeline.identity import stage_identity
from accord.pipeline.stages.compare import arena, compare
from accord.pipeline.stages.sample import select
from accord.records import Response
from accord.respond import http as attempts
from accord.runs import read_metrics
from accord.settings.arena import ArenaSettings
from accord.settings.judge import JudgeSettings
from accord.settings.reading.load import build
from accord.settings.recipe import single_stage
from accord.settings.stages import CompareSettings, Contestant, SelectSettings
from tests.fake_openai import FakeOpenAi, Reply, completion, judged_texts, prefers
from tests.lm.toys import save_toy

ANSWERS = {
    "one": ("yes", "no", "yes yes", "mute"),
    "two": ("no", "yes yes yes", "yes", "yes yes"),
    "three": ("no", "no no", "no yes", "yes yes"),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    server.answer = mute
    yield server
    server.close()


def yes(text: str) -> int:
    return 1 + text.count("yes")


def mute(body: Any) -> Reply:
    """Prefers yes, and gives no verdict where a response is mute."""
    if "mute" in judged_texts(body).values():
        return 200, completion("...")
    return prefers(yes)(body)


def judge_at(fake: FakeOpenAi, **settings: Any) -> JudgeSettings:
    return JudgeSettings(kind="endpoint", base_url=fake.url, model="m", attempts=2, **settings)


def write_answers(path: Path, model: str, answers: dict[str, tuple[str, ...]]) -> str:
    rows = [
        ResponseRow(prompt, {}, model, {}, tuple(Response(prompt, t, model) for t in texts))
        for prompt, texts in answers.items()
    ]
    write_responses(path, rows)
    return str(path)


def compare_counts(fake: FakeOpenAi, folder: Path, form: Any, **judge: Any) -> dict[str, Any]:
    settings = CompareSettings(
        responses=[write_answers(folder / "responses.jsonl", "base", ANSWERS)],
        output_dir=str(folder / form),
        judge=judge_at(fake, **judge),
        form=form,
    )
    list(compare(settings))
    counts: dict[str, Any] = json.loads((folder / form / "counts.json").read_text())
    return counts


def test_rankings_leave_out_what_has_no_verdict(fake: FakeOpenAi, tmp_path: Path) -> None:
    counts = compare_counts(fake, tmp_path, "rankings")
    with PreferenceStore.open(tmp_path / "rankings/store.db", create=False) as store:
        rankings = store.rankings()
        assert {v.annotator for v in store.verdicts()} == {"m"}
    ranks = {r.prompt: dict(zip(r.responses, r.ranks, strict=True)) for r in rankings}
    assert ranks == {
        "two": {"no": 3, "yes": 2, "yes yes": 1, "yes yes yes": 0},
        # Of "no" and "no no" neither has a yes: a tie in both orders.
        "three": {"no": 2, "no no": 2, "no yes": 1, "yes yes": 0},
    }
    assert counts["without_verdict"] == 1
    assert counts["rankings"] == 2
    # "mute" meets three others in two orders, and each of these is asked about twice.
    assert counts["judge"]["unreadable_answers"] == 3 * 2 * 2
    assert counts["judge"]["missing"] == 3 * 2
    assert counts["judge"]["pairs"] == 3 * 6
    assert counts["judge"]["calls"] == 3 * 12 + 3 * 2


def test_pairs_cost_two_calls_each_and_a_second_run_none(fake: FakeOpenAi, tmp_path: Path) -> None:
    fake.answer = prefers(yes)
    counts = compare_counts(fake, tmp_path, "pairs")
    assert counts["judge"]["calls"] == len(fake.requests) == 6 * 2
    with PreferenceStore.open(tmp_path / "pairs/store.db", create=False) as store:
        first = store.verdicts()
        assert all(yes(c.chosen) > yes(c.rejected) for c in store.comparisons())
        assert {v.annotator for v in first} == {"m"}
        # Neither response was shown first: each was, once.
        assert {item.shown for v in first for item in v.items} == {None}
    again = compare_counts(fake, tmp_path, "pairs", max_calls=1)
    assert len(fake.requests) == 12
    assert (again["judge"]["kept"], again["judge"]["calls"]) == (12, 0)
    with PreferenceStore.open(tmp_path / "pairs/store.db", create=False) as store:
        assert [v.outcome for v in store.verdicts()] == [v.outcome for v in first]


def test_a_limit_stops_a_stage_that_resumes_when_run_again(
    fake: FakeOpenAi, tmp_path: Path
) -> None:
    fake.answer = prefers(yes)
    for _ in range(2):
        with pytest.raises(WorkError, match="max_calls=5"):
            compare_counts(fake, tmp_path, "pairs", max_calls=5)
        assert not (tmp_path / "pairs/store.db").exists()
    assert compare_counts(fake, tmp_path, "pairs", max_calls=5)["judge"]["kept"] == 10
    assert len(fake.requests) == 12


def test_a_judge_without_any_verdict_ends_the_stage(fake: FakeOpenAi, tmp_path: Path) -> None:
    fake.answer = lambda body: (200, completion("I am a teapot."))
    with pytest.raises(WorkError, match=r"no verdict on any of 6 questions.*teapot"):
        compare_counts(fake, tmp_path, "pairs")


def test_an_arena_rates_by_the_verdicts(fake: FakeOpenAi, tmp_path: Path) -> None:
    first = {"one": ("yes yes",), "two": ("yes",), "three": ("yes",), "four": ("mute",)}
    second = {"one": ("yes",), "two": ("yes",), "three": ("no",), "four": ("yes",)}
    settings = ArenaSettings(
        contestants=[
            Contestant(
                name=name, responses=write_answers(tmp_path / f"{name}.jsonl", name, answers)
            )
            for name, answers in (("first", first), ("second", second))
        ],
        output_dir=str(tmp_path / "arena"),
        judge=judge_at(fake),
        bootstrap=0,
        prior=1,
    )
    list(arena(settings))
    rated = json.loads((tmp_path / "arena/ratings.json").read_text())["models"]
    row = next(r for r in rated if r["model"] == "first")
    # Two won, one tie of equal texts, and one without a verdict, which is no battle.
    assert (row["wins"], row["ties"], row["battles"]) == (2, 1, 3)
    counts = json.loads((tmp_path / "arena/counts.json").read_text())
    assert counts["without_verdict"] == 1
    assert counts["verdicts"] == 3
    assert counts["judge"]["calls"] == 2 * 2 + 2 * 2


def test_best_of_n_by_a_judge(fake: FakeOpenAi, tmp_path: Path) -> None:
    settings = {
        "responses": write_answers(tmp_path / "responses.jsonl", "base", ANSWERS),
        "output_dir": str(tmp_path / "best"),
        "n": 4,
        "model_name": "best",
        "rewards": [
            {"kind": "judge", "base_url": fake.url, "model": "m", "unreadable": "mean"},
            {"kind": "length", "at_most": 0, "penalty": 0.001},
        ],
    }
    list(select(build(SelectSettings, settings, where="select")))
    best = [row.responses[0].text for row in read_responses(tmp_path / "best/responses.jsonl")]
    assert best == ["yes yes", "yes yes yes", "yes yes"]
    usage = json.loads((tmp_path / "best/judges.json").read_text())["judge"]
    # Each of twelve responses once, and the one without a score twice more.
    assert (usage["calls"], usage["unreadable_answers"], usage["missing"]) == (14, 3, 1)


def test_grpo_learns_what_a_judge_prefers(fake: FakeOpenAi, tmp_path: Path) -> None:
    fake.answer = prefers(lambda text: 1 + min(9, text.count("e")))
    rows = [{"prompt": word} for word in ("cat", "dog")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    reward = f"[{{kind: judge, base_url: '{fake.url}', model: m, max_concurrent: 2}}]"
    plan = single_stage(
        "train",
        "grpo",
        overrides=[
            f"model={save_toy(tmp_path / 'toy')}",
            f"dataset={tmp_path / 'prompts.jsonl'}",
            f"output_dir={tmp_path / 'out'}",
            f"rewards={reward}",
            "per_device_train_batch_size=64",
            "num_generations=16",
            "max_steps=12",
            "max_new_tokens=6",
            "max_length=32",
            "learning_rate=2.0e-2",
            "beta=0",
            "missing_eos_penalty=0",
            "device=cpu",
        ],
    )
    run_stage(plan)
    scores = [row["rewards/judge/mean"] for row in read_metrics(tmp_path / "out/metrics.jsonl")]
    assert len(scores) == 12
    assert scores[0] < 2 < 5 < scores[-1]  # of 1 for no e to 10 for nine of them
    usage = json.loads((tmp_path / "out/judges.json").read_text())["judge"]
    assert usage["calls"] == len(fake.requests) > 0
    assert usage["missing"] == 0


def test_a_round_by_a_judge_at_an_endpoint(
    fake: FakeOpenAi, tiny_run: Path, tmp_path: Path
) -> None:
    fake.answer = prefers(lambda text: text.count("e"))
    plan = single_stage(
        "iterate",
        overrides=[
            f"dataset={tiny_run}/world/train_prompts.jsonl",
            f"eval_dataset={tiny_run}/world/test_prompts.jsonl",
            f"model={tiny_run}/sft/model",
            f"output_dir={tmp_path / 'out'}",
            "judge.kind=endpoint",
            f"judge.base_url={fake.url}",
            "judge.model=m",
            "rounds=1",
            "prompts_per_round=6",
            "num_responses=3",
            "max_new_tokens=8",
            "train.max_steps=1",
            "train.per_device_train_batch_size=4",
            "train.filter.unchecked_judges=[m]",
        ],
    )
    run_stage(plan)
    (first, second) = json.loads((tmp_path / "out/rounds.json").read_text())["rounds"]
    assert first["win_rate"] is None
    assert second["counts"]["without_verdict"] == 0
    assert second["counts"]["judge"]["pairs"] == 6 * 3
    with PreferenceStore.open(second["verdicts"], create=False) as store:
        assert store.comparisons()
        for pair in store.comparisons():
            assert pair.chosen.count("e") > pair.rejected.count("e")
    battles = json.loads((tmp_path / "out/round-1/arena/counts.json").read_text())
    paths = [tmp_path / f"out/round-{n}/answers/responses.jsonl" for n in (0, 1)]
    before, after = ([row.responses[0].text for row in read_responses(p)] for p in paths)
    assert battles["judge"]["pairs"] == sum(a != b for a, b in zip(before, after, strict=True))


def test_principles_are_an_input_and_limits_are_not(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("principles: [be kind]\n")
    shared = [
        f"responses=[{write_answers(tmp_path / 'r.jsonl', 'm', ANSWERS)}]",
        f"output_dir={tmp_path / 'out'}",
        "judge.kind=endpoint",
        "judge.base_url=http://127.0.0.1:1/v1",
        "judge.model=m",
        f"judge.principles_file={path}",
    ]

    def digest(*overrides: str) -> str:
        plan = single_stage("compare", overrides=[*shared, *overrides])
        value: str = stage_identity(plan)["digest"]
        return value

    before = digest()
    assert digest("judge.max_calls=3", "judge.timeout=1.0") == before
    assert digest("judge.temperature=1.0") != before
    path.write_text("principles: [be true]\n")
    assert digest() != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "endpoint", "model": "m"}, "needs `base_url`"),
        ({"kind": "endpoint", "base_url": "http://h/v1"}, "`model`"),
        ({"base_url": "http://h/v1"}, "`base_url` belongs to `kind=endpoint`"),
        ({"kind": "reward_model", "model": "m", "max_calls": 3}, "`max_calls` belongs to"),
    ],
)
def test_keys_of_another_kind_of_judge(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JudgeSettings(**settings)
