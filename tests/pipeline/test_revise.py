"""The stage `revise`: its files, what is dropped, the judge, interruptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.compare.dataset import load_records
from accord.compare.store.store import PreferenceStore
from accord.data.read import read_records
from accord.data.write import ResponseRow, write_responses
from accord.errors import DataError, SettingsError, WorkError
from accord.pipeline import run_stage
from accord.pipeline.stages import revise as stage
from accord.pipeline.stages.revise import revise
from accord.records import Comparison, Demonstration, Message, Prompt, Response
from accord.respond import http as attempts
from accord.settings.recipe import single_stage
from accord.settings.revise import ReviserSettings, ReviseSettings
from tests.fake_openai import FakeOpenAi, Reply, completion, prefers, request_text
from tests.lm.toys import save_toy

FILES = ("revisions.jsonl", "conversations.jsonl", "sft.jsonl", "revise.json")
# What the model at the fake endpoint makes of each response.
REVISIONS = {
    "rude one": "kind kind one",
    "rude two": "rude two!",  # unchanged
    "rude three": "It is rude and DROPPED in every single word of it.",  # quotes the critique
    "rude four": "worse four",
    "rude five": "kind five",
    "fine six": "never asked for",
}
CRITIQUE = "It is rude and DROPPED in every single word of it."


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    server.answer = answer
    yield server
    server.close()


def kindness(text: str) -> int:
    return text.count("kind") - text.count("worse")


def answer(body: Any) -> Reply:
    """Criticises what is rude, revises by REVISIONS, and judges by kindness."""
    text = request_text(body)
    if "Response A" in text or "response-A" in text:
        if "kind five" in text:  # prefers whatever is shown first
            return 200, completion('{"reason": "so", "verdict": "A"}')
        return prefers(kindness)(body)
    response = next((r for r in REVISIONS if f"\n{r}\n</answer-" in text), None)
    if response is None and "Examine the answer" in text:
        return 200, completion("No issue.")
    if response is None:
        return 200, completion(f"rude {text.split()[-1]}")  # a prompt to be answered
    if "Examine the answer" in text:
        return 200, completion(CRITIQUE if "rude" in response else "No issue.")
    return 200, completion(REVISIONS[response])


def write_rows(path: Path, texts: Any = REVISIONS, prompt: Prompt = "say") -> str:
    rows = [
        ResponseRow(f"{prompt} {i}", {}, "base", {}, (Response(f"{prompt} {i}", text, "base"),))
        for i, text in enumerate(texts)
    ]
    write_responses(path, rows)
    return str(path)


def make(tmp_path: Path, fake: FakeOpenAi, out: str = "out", **more: Any) -> ReviseSettings:
    endpoint = {"kind": "endpoint", "base_url": fake.url, "model": "m"}
    values: dict[str, Any] = {
        "responses": [write_rows(tmp_path / "r.jsonl")],
        "output_dir": str(tmp_path / out),
        "reviser": endpoint,
        "judge": {**endpoint, "model": "j"},
    }
    return ReviseSettings(**{**values, **more})


def counts_of(settings: ReviseSettings) -> dict[str, Any]:
    list(revise(settings))
    counts: dict[str, Any] = json.loads(
        (Path(settings.output_dir) / "revise.json").read_text("utf-8")
    )
    return counts


def rows_of(settings: ReviseSettings, name: str) -> list[dict[str, Any]]:
    text = (Path(settings.output_dir) / name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_counts(fake: FakeOpenAi, tmp_path: Path) -> None:
    counts = counts_of(make(tmp_path, fake))
    assert counts["responses"] == {"all": 6, "without_text": 0, "faultless": 1, "revised": 3}
    assert counts["rounds"] == {"revised": 3, "dropped": 2, "no issue": 1}
    assert counts["dropped"] == {"unchanged": 1, "quotes the critique": 1}
    assert counts["revisions"] == {"better": 1, "worse": 1, "undecided": 1}
    assert counts["better_share"]["mean"] == 0.5
    # Clopper-Pearson for 1 of 2: 1 − √(1 − 0.025) and its mirror image.
    assert counts["better_share"]["low"] == pytest.approx(1 - (1 - 0.025) ** 0.5)
    assert counts["demonstrations"] == {"revisions": 1, "originals": 1}
    assert counts["preferences"] == "by the judge j"
    assert (counts["reviser"], counts["judge"]) == ("m", "j")
    usage = counts["usage"]
    assert usage["reviser"]["calls"] == 6 + 5  # a critique of each, a revision of each rude one
    assert usage["judge"]["calls"] == 3 * 2
    assert sum(n for p in counts["principles"].values() for n in p.values()) == 6


def test_the_columns_are_read_back(fake: FakeOpenAi, tmp_path: Path) -> None:
    settings = make(tmp_path, fake)
    list(revise(settings))
    path = tmp_path / "out/conversations.jsonl"
    row = rows_of(settings, "conversations.jsonl")[0]
    columns = ("init_prompt", "critic_prompt", "revision_prompt")
    assert all(row[c]["role"] == "user" for c in columns)
    assert row["init_prompt"]["content"] == "say 0"
    assert row["init_response"] == {"role": "assistant", "content": "rude one"}
    assert row["critic_response"] == {"role": "assistant", "content": CRITIQUE}
    assert row["revision_response"] == {"role": "assistant", "content": "kind kind one"}
    pairs, _ = read_records(path, "comparisons")
    assert [(p.chosen, p.rejected) for p in pairs if isinstance(p, Comparison)] == [
        ("kind kind one", "rude one"),
        ("rude four", "worse four"),  # the judge prefers the original
    ]
    demonstrations, report = read_records(path, "demonstrations")
    assert [d.response for d in demonstrations if isinstance(d, Demonstration)] == ["kind kind one"]
    assert report.rows == 3


def test_sft_rows(fake: FakeOpenAi, tmp_path: Path) -> None:
    settings = make(tmp_path, fake)
    list(revise(settings))
    rows, _ = read_records(tmp_path / "out/sft.jsonl", "demonstrations")
    assert [r.response for r in rows if isinstance(r, Demonstration)] == [
        "kind kind one",
        "fine six",
    ]
    alone = make(tmp_path, fake, "alone", demonstrations="revisions")
    list(revise(alone))
    assert [r["completion"] for r in rows_of(alone, "sft.jsonl")] == ["kind kind one"]


def test_the_store_has_the_judges_verdicts(fake: FakeOpenAi, tmp_path: Path) -> None:
    list(revise(make(tmp_path, fake)))
    with PreferenceStore.read(tmp_path / "out/store.db") as store:
        verdicts = store.verdicts()
        texts = {r.id: r.response.text for r in store.responses()}
        models = {r.response.model for r in store.responses()}
        answers = store.judge_answers([v.id for v in verdicts])
    assert [v.outcome for v in verdicts] == ["b", "a", "undecided"]
    assert {v.annotator for v in verdicts} == {"j"}
    assert all(v.judge is not None for v in verdicts)
    assert all(len(both) == 2 for both in answers.values())
    assert models == {"base", "base, revised"}
    assert sorted(texts.values())[:2] == ["kind five", "kind kind one"]
    with pytest.raises(DataError, match="judge check"):  # the judge has not passed
        load_records(tmp_path / "out/store.db", "comparisons")


def test_what_was_dropped_is_nowhere_but_in_the_log(fake: FakeOpenAi, tmp_path: Path) -> None:
    for judge in ({"judge": None}, {"judge": None, "assume_better": True}, {}):
        settings = make(tmp_path, fake, f"out{len(judge)}", rounds=3, **judge)
        list(revise(settings))
        folder = Path(settings.output_dir)
        log = rows_of(settings, "revisions.jsonl")
        dropped = [x for r in log for x in r["rounds"] if x["outcome"] == "dropped"]
        assert {x["reason"] for x in dropped} == {"unchanged", "quotes the critique"}
        for row in (*rows_of(settings, "sft.jsonl"), *rows_of(settings, "conversations.jsonl")):
            learned = [row.get(k) for k in ("completion", "messages", "chosen", "rejected")]
            learned.append(row.get("revision_response"))
            assert "DROPPED" not in json.dumps(learned)
            assert "rude two!" not in json.dumps(learned)
        if (folder / "store.db").exists():
            with PreferenceStore.read(folder / "store.db") as store:
                texts = [r.response.text for r in store.responses()]
            assert not {x["revision"] for x in dropped} & set(texts)


def test_without_a_judge_there_is_no_preference(fake: FakeOpenAi, tmp_path: Path) -> None:
    settings = make(tmp_path, fake, judge=None)
    counts = counts_of(settings)
    assert not (tmp_path / "out/store.db").exists()
    assert all("chosen" not in row for row in rows_of(settings, "conversations.jsonl"))
    assert counts["preferences"].startswith("none: no judge")
    assert counts["revisions"] == {"unjudged": 3}
    assert counts["better_share"] is None
    assert len(rows_of(settings, "sft.jsonl")) == 4

    assumed = make(tmp_path, fake, "assumed", judge=None, assume_better=True)
    assert counts_of(assumed)["preferences"].startswith("assumed, not judged")
    with PreferenceStore.read(tmp_path / "assumed/store.db") as store:
        assert {(v.outcome, v.annotator, v.source) for v in store.verdicts()} == {
            ("b", "assumed", "assumed")
        }
    assert [r["chosen"][-1]["content"] for r in rows_of(assumed, "conversations.jsonl")] == [
        "kind kind one",
        "worse four",
        "kind five",
    ]


def world_settings(tiny_world: Path, tmp_path: Path, out: str) -> ReviseSettings:
    lines = (tiny_world / "demonstrations.jsonl").read_text("utf-8").splitlines()[:40]
    rows = []
    for line in map(json.loads, lines):
        prompt = (Message("user", line["prompt"][0]["content"]),)
        response = Response(prompt, line["completion"], "base")
        rows.append(ResponseRow(prompt, {}, "base", {}, (response,)))
    write_responses(tmp_path / "w.jsonl", rows)
    known = ["harmless/no-violence", "right-length", "no-flattery", "answers-the-request"]
    return ReviseSettings(
        responses=[str(tmp_path / "w.jsonl")],
        output_dir=str(tmp_path / out),
        constitution=["harmless", "helpful", "honest"],
        principles=known,
        rounds=3,
        reviser=ReviserSettings(kind="world"),
        judge={"kind": "world", "noise": 0.1},  # type: ignore[arg-type]
    )


def test_a_killed_run_resumes_with_equal_files(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "CHUNK", 8)
    whole = world_settings(tiny_world, tmp_path, "whole")
    assert [p.done for p in revise(whole)] == [0, 8, 16, 24, 32, 40]
    killed = world_settings(tiny_world, tmp_path, "killed")
    work = revise(killed)
    for _ in range(3):
        next(work)
    partial = tmp_path / "killed/revisions.partial.jsonl"
    lines = partial.read_bytes()
    assert lines.count(b"\n") == 1 + 16
    assert not (tmp_path / "killed/sft.jsonl").exists()
    # Killed while it wrote: the third chunk is there in part, its last line torn.
    partial.write_bytes(lines + lines.split(b"\n")[1] + b"\n" + b'{"row": 17, "pro')
    assert next(revise(killed)).done == 16
    list(revise(killed))
    for name in FILES:
        ours, theirs = (tmp_path / f / name for f in ("killed", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert not partial.exists()


def test_other_settings_do_not_resume(tiny_world: Path, tmp_path: Path) -> None:
    settings = world_settings(tiny_world, tmp_path, "out")
    work = revise(settings)
    next(work), next(work)
    other = settings.model_copy(update={"seed": 1})
    assert next(revise(other)).done == 0


def test_an_interrupted_run_asks_nothing_again(
    fake: FakeOpenAi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "CHUNK", 2)
    settings = make(tmp_path, fake)
    work = revise(settings)
    next(work), next(work)
    asked = [request_text(body) for body in fake.requests]
    list(revise(settings))
    again = [request_text(body) for body in fake.requests[len(asked) :]]
    assert not set(asked) & set(again)


def test_prompts_are_answered_first(fake: FakeOpenAi, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"prompt": "say one"}, {"prompt": [*turns, {"role": "user", "content": "c"}]}]
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = make(tmp_path, fake, responses=[], dataset=str(data))
    counts = counts_of(settings)
    assert counts["responses"] == {"all": 2, "without_text": 1, "faultless": 0, "revised": 1}
    (row,) = rows_of(settings, "conversations.jsonl")
    assert row["init_response"]["content"] == "rude one"
    assert [r["completion"] for r in rows_of(settings, "sft.jsonl")] == ["kind kind one"]


def test_the_responses_of_a_store(fake: FakeOpenAi, tmp_path: Path) -> None:
    with PreferenceStore.open(tmp_path / "given.db") as store:
        store.add_responses([Response("say", "rude one", "a"), Response("say", "fine six", "b")])
    counts = counts_of(make(tmp_path, fake, responses=str(tmp_path / "given.db")))
    assert counts["responses"]["all"] == 2
    with PreferenceStore.open(tmp_path / "empty.db"):
        pass
    with pytest.raises(DataError, match="holds no responses"):
        list(revise(make(tmp_path, fake, "o", responses=[str(tmp_path / "empty.db")])))


def test_a_reviser_that_does_not_work(fake: FakeOpenAi, tmp_path: Path) -> None:
    fake.answer = lambda body: (200, completion("<think>It is ru", finish="length"))
    with pytest.raises(WorkError, match=r"wrote no critique of any of 6 responses.*thoughts"):
        list(revise(make(tmp_path, fake)))
    other = {"kind": "endpoint", "base_url": fake.url, "model": "other"}  # nothing is cached
    fake.answer = lambda body: (401, {"error": {"message": "bad key"}})
    with pytest.raises(SettingsError, match="refuses the reviser's requests"):
        list(revise(make(tmp_path, fake, "other", reviser=other)))


def test_a_revision_that_the_server_cut(fake: FakeOpenAi, tmp_path: Path) -> None:
    fake.answer = lambda body: (200, completion("It is ru", finish="length"))
    assert counts_of(make(tmp_path, fake, judge=None))["dropped"] == {"cut": 6}


def test_a_model_in_process(tmp_path: Path) -> None:
    model = save_toy(tmp_path / "model")
    reviser = ReviserSettings(model=model, answer_tokens=8, batch_size=2)
    responses = [write_rows(tmp_path / "r.jsonl", ["the cat", "a dog"], "the")]
    settings = ReviseSettings(
        responses=responses, output_dir=str(tmp_path / "out"), reviser=reviser
    )
    # Its context of 128 tokens holds no such request, which is not cut to fit.
    with pytest.raises(WorkError, match="too long for the model's context"):
        list(revise(settings))


def answers_in_process(model: str, temperature: float, streams: list[int]) -> list[Any]:
    from accord.pipeline.stages.revisers import build_reviser

    settings = ReviserSettings(model=model, answer_tokens=8, temperature=temperature)
    named = build_reviser(settings, [], seed=3)
    assert named.answer is not None
    turn = (Message("user", "the sea"),)
    return named.answer([turn, turn, (Message("user", "the " * 200),)], streams)


def test_answers_in_process_depend_on_their_streams(tmp_path: Path) -> None:
    model = save_toy(tmp_path / "model")
    first, second, long = answers_in_process(model, 1.0, [1, 2, 3])
    assert first.text != second.text
    assert "too long" in long.reason
    assert answers_in_process(model, 1.0, [2, 1, 3])[:2] == [second, first]
    greedy = answers_in_process(model, 0.0, [1, 2, 3])
    assert greedy[0] == greedy[1]


def test_the_world_knows_some_principles(tiny_world: Path, tmp_path: Path) -> None:
    settings = world_settings(tiny_world, tmp_path, "out").model_copy(update={"principles": []})
    with pytest.raises(SettingsError, match="no rule for the principle harmless/no-crime"):
        list(revise(settings))


def test_the_stage_prints_what_happened(
    fake: FakeOpenAi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make(tmp_path, fake)
    judge = f"{{kind: endpoint, base_url: '{fake.url}', model: j}}"
    overrides = [
        f"responses=[{settings.responses[0]}]",
        f"output_dir={tmp_path / 'cli'}",
        f"reviser={{kind: endpoint, base_url: '{fake.url}', model: m}}",
        f"judge={judge}",
    ]
    run_stage(single_stage("revise", overrides=overrides))
    shown = capsys.readouterr()
    assert "1 better" in shown.out
    assert "1 quotes the critique" in shown.out
    calls = len(fake.requests)
    run_stage(single_stage("revise", overrides=overrides))
    assert "finished before" in capsys.readouterr().err
    assert len(fake.requests) == calls
