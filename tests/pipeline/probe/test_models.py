"""Reward models, judges of pairs and judges that score: limits in tokens, distance, orders."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.compare.rewards.build import build_reward
from accord.errors import DataError, WorkError
from accord.lm.load import load_scalar
from accord.lm.loading.saving import save_model
from accord.pipeline.probe.run import read_probe_settings
from accord.pipeline.probe.scoring import leave_out_cut
from accord.respond import http as attempts
from tests.fake_openai import FakeOpenAi, completion, judged_texts, prefers
from tests.lm.toys import save_toy
from tests.pipeline.probe.conftest import Probe, write_rows

WORDS = "yes no well so fine never good bad sea cat mat door house dog word".split()


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward")
    lm = load_scalar(save_toy(folder / "toy"), new_head=True)
    lm.score_mean, lm.score_std = 0.5, 2.0
    save_model(lm, folder / "model", card="")
    return str(folder / "model")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeOpenAi]:
    monkeypatch.setattr(attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "cache"))
    server = FakeOpenAi()
    yield server
    server.close()


def word_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "prompt": f"say {n}",
            "chosen": " ".join(rng.sample(WORDS, 3)),
            "rejected": " ".join(rng.sample(WORDS, 4)),
        }
        for n in range(count)
    ]


def test_the_margins_of_a_reward_model_are_logits(
    probe: Probe, reward_model: str, tmp_path: Path
) -> None:
    rows = word_pairs(20)
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    document = probe(f"preferences={path}", f"reward_model={reward_model}", "probes=[blanks]")
    audit = next(a for a in document.audits if a.name == "calibration")
    # Its raw scores: the normalised ones times their standard deviation.
    values = [f"preferences={path}", f"reward_model={reward_model}", "output_dir=o"]
    reward = build_reward(read_probe_settings(None, values).sources)
    prompts = [row["prompt"] for row in rows]
    chosen = reward(prompts, [row["chosen"] for row in rows])
    rejected = reward(prompts, [row["rejected"] for row in rows])
    margins = [2.0 * (a - b) for a, b in zip(chosen, rejected, strict=True)]
    brier = sum((1 / (1 + math.exp(m))) ** 2 for m in margins) / len(margins)
    assert audit.details["brier"] == pytest.approx(brier, rel=1e-4)


def test_scores_of_several_heads_or_sources_are_no_logits(
    probe: Probe, reward_model: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", word_pairs(8))
    lm = load_scalar(save_toy(tmp_path / "toy"), new_head=True, heads=2)
    save_model(lm, tmp_path / "heads" / "model", card="")
    one = f"{{kind: reward_model, model: '{reward_model}'}}"
    for rewards, is_logits in (
        (f"[{{kind: reward_model, model: '{tmp_path / 'heads/model'}'}}]", False),
        (f"[{one}, {{kind: length, at_most: 1}}]", False),
        (f"[{one}, {{kind: length, at_most: 1, weight: 0}}]", True),
    ):
        document = probe(f"preferences={path}", f"rewards={rewards}", "probes=[blanks]")
        assert ("calibration" in {a.name for a in document.audits}) == is_logits
        assert ("calibration" in document.results) != is_logits


def test_an_answer_that_is_not_read_whole_is_left_out(
    probe: Probe, reward_model: str, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", word_pairs(6))
    document = probe(
        f"preferences={path}", f"reward_model={reward_model}", "probes=[lengthened, repeated]"
    )
    # Byte-level, 128 positions: twenty words of filler do not fit, the answer twice does.
    flips = {a.name: a for a in document.audits}
    assert flips["lengthened_flips"].count == 0
    assert flips["lengthened_gain"].count == 0
    assert flips["repeated_gain"].count == 12
    assert any("12 changed answers are longer than the reward model" in n for n in document.notes)


def test_a_pair_that_is_cut_itself_stays_and_is_counted(
    probe: Probe, reward_model: str, tmp_path: Path
) -> None:
    rows = word_pairs(4)
    rows[0]["chosen"] = "a house by the sea " * 20
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    document = probe(f"preferences={path}", f"reward_model={reward_model}", "probes=[flattered]")
    assert any("1 of 4 pairs are longer" in note for note in document.notes)
    assert next(a for a in document.audits if a.name == "accuracy").count == 4
    assert leave_out_cut(build_reward([]), []) == ([], 0, 0)


def test_the_distance_of_a_policys_answers(probe: Probe, reward_model: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", word_pairs(6))
    training = write_rows(tmp_path / "train.jsonl", word_pairs(400, seed=1))
    near = [row["chosen"] for row in word_pairs(60, seed=2)]
    far = ["@@ ## !! %% && 00000" for _ in near]
    shares = {}
    for name, texts in (("near", near), ("far", far)):
        rows = [
            {"prompt": f"say {n}", "model": name, "responses": [{"text": t}, {"text": "<think>"}]}
            for n, t in enumerate(texts)
        ]
        document = probe(
            f"preferences={path}",
            f"reward_model={reward_model}",
            "probes=[blanks]",
            f"training={training}",
            f"responses={write_rows(tmp_path / f'{name}.jsonl', rows)}",
        )
        audit = next(a for a in document.audits if a.name == "distance")
        assert audit.count == 60
        assert audit.details["reasoning_never_ends"] == 60
        assert audit.details["fitted"] + audit.details["left_out"] == 800
        assert audit.details["left_out"] == 160
        shares[name] = audit
    assert any("6 of the prompts are among those of" in note for note in document.notes)
    assert shares["near"].value.mean < 0.2
    assert shares["far"].value.mean > 0.7
    assert shares["far"].verdict == "fail"
    with pytest.raises(DataError, match="about 100 pairs"):
        probe(
            f"preferences={path}",
            f"reward_model={reward_model}",
            f"training={path}",
            f"responses={tmp_path / 'far.jsonl'}",
        )


def test_a_judge_of_pairs(probe: Probe, fake: FakeOpenAi, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    judge = (f"judge.base_url={fake.url}", "judge.model=m", "probes=[flattered, emptied]")
    fake.answer = prefers(lambda text: ("good" in text) + 2 * ("uestion" in text))
    document = probe(f"preferences={path}", *judge)
    audits = {a.name: a for a in document.audits}
    assert audits["accuracy"].value.mean == 1
    assert audits["order"].value.mean == 0
    # Two compliments in three say "question", which this judge likes.
    assert audits["flattered_flips"].verdict == "fail"
    assert audits["flattered_gain"].value.mean == pytest.approx((8 + 4 / 2) / 12)
    assert audits["emptied"].verdict == "undecided"  # 0 of 12 may be 26%
    assert "calibration" not in audits
    assert "calibration" not in document.results
    # Four comparisons of each pair, in two orders.
    assert len(fake.requests) == 96
    # What the log holds is not asked again, even without the endpoint's own cache.
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert probe(f"preferences={path}", *judge).to_json() == document.to_json()
    assert len(fake.requests) == 96


def test_a_judge_that_names_the_first_or_nothing(
    probe: Probe, fake: FakeOpenAi, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(8)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    judge = (f"judge.base_url={fake.url}", "judge.model=m", "probes=[hedged]")
    document = probe(f"preferences={path}", *judge)
    order = next(a for a in document.audits if a.name == "order")
    assert (order.value.mean, order.verdict) == (1.0, "fail")
    assert order.details["first_shown_wins"]["mean"] == 1.0
    fake.answer = lambda body: (200, completion("I would rather not."))
    before = len(fake.requests)
    with pytest.raises(WorkError, match="no verdict on any of the first 4 pairs"):
        probe(
            f"preferences={path}",
            f"judge.base_url={fake.url}",
            "judge.model=other",
            "judge.attempts=1",
        )
    assert len(fake.requests) - before == 8
    # A judge that gives no verdict now and then: those comparisons are left out, and counted.
    fake.answer = lambda body: (
        (200, completion("Hm."))
        if "good 3" in judged_texts(body).values()
        else prefers(lambda text: "good" in text)(body)
    )
    document = probe(
        f"preferences={path}",
        f"judge.base_url={fake.url}",
        "judge.model=third",
        "judge.attempts=1",
        "probes=[hedged]",
    )
    assert next(a for a in document.audits if a.name == "accuracy").count == 7
    assert any("no verdict" in note for note in document.notes)


def test_a_score_that_was_filled_in_is_none(probe: Probe, fake: FakeOpenAi, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", word_pairs(5))
    spoilt = word_pairs(5)[2]["chosen"]
    fake.answer = lambda body: (
        (200, completion("Hm."))
        if judged_texts(body)["response"] == spoilt
        else (200, completion(json.dumps({"score": 1 + len(judged_texts(body)["response"]) % 9})))
    )
    source = f"{{kind: judge, base_url: '{fake.url}', model: m, unreadable: mean}}"
    document = probe(f"preferences={path}", f"rewards=[{source}]", "probes=[emptied]")
    assert next(a for a in document.audits if a.name == "accuracy").count == 4
    assert any("1 answers have no score" in note for note in document.notes)
