"""The forms of a judge's verdicts: pairs, rankings, or labels of single responses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.compare.dataset import load_records
from accord.compare.store.store import PreferenceStore
from accord.errors import DataError
from accord.pipeline.stages.compare import compare
from accord.records import Ranking, Rating
from accord.runs import digest_path
from accord.settings.judge import JudgeSettings
from accord.settings.stages import CompareSettings


def test_labels_are_those_of_the_rankings_with_a_row_for_each_response(
    tiny_run: Path, tmp_path: Path
) -> None:
    for form in ("rankings", "labels"):
        settings = CompareSettings(
            responses=[str(tiny_run / "responses/responses.jsonl")],
            output_dir=str(tmp_path / form),
            form=form,
        )
        list(compare(settings))
    rankings, _ = load_records(tmp_path / "rankings/store.db", "rankings")
    expected = []
    for ranking in rankings:
        assert isinstance(ranking, Ranking)
        assert sorted(ranking.ranks) == [0, 1, 2, 3]  # noisy annotators never tie
        expected += [
            (ranking.prompt, text, 1.0 if rank in (0, 1) else 0.0)
            for text, rank in zip(ranking.responses, ranking.ranks, strict=True)
        ]
    ratings, _ = load_records(tmp_path / "labels/store.db", "kto")
    labels = [(r.prompt, r.response, r.score) for r in ratings if isinstance(r, Rating)]
    assert labels == expected
    with PreferenceStore.open(tmp_path / "labels/store.db", create=False) as store:
        counts = store.counts()
    assert counts["ratings"] == counts["verdicts"] == len(expected) > 0


def test_best_and_worst_are_the_ends_of_the_rankings(tiny_run: Path, tmp_path: Path) -> None:
    for form in ("rankings", "best_worst"):
        settings = CompareSettings(
            responses=[str(tiny_run / "responses/responses.jsonl")],
            output_dir=str(tmp_path / form),
            form=form,
        )
        list(compare(settings))
    with PreferenceStore.open(tmp_path / "rankings/store.db", create=False) as store:
        rankings = store.rankings()
    with PreferenceStore.open(tmp_path / "best_worst/store.db", create=False) as store:
        pairs = store.comparisons()
    assert len(pairs) == len(rankings) == 32
    for pair, ranking in zip(pairs, rankings, strict=True):
        by_rank = dict(zip(ranking.ranks, ranking.responses, strict=True))
        assert (pair.prompt, pair.chosen, pair.rejected) == (
            ranking.prompt,
            by_rank[0],
            by_rank[3],
        )


def test_responses_that_all_tie_are_a_tie(tmp_path: Path, tiny_run: Path) -> None:
    rows = (tiny_run / "responses/responses.jsonl").read_text().splitlines()
    row = json.loads(rows[0])
    row["responses"] = [row["responses"][0]] * 3
    (tmp_path / "same.jsonl").write_text(json.dumps(row) + "\n")
    settings = CompareSettings(
        responses=[str(tmp_path / "same.jsonl")],
        output_dir=str(tmp_path),
        form="best_worst",
        judge=JudgeSettings(noise=0),
    )
    list(compare(settings))
    with PreferenceStore.open(tmp_path / "store.db", create=False) as store:
        (verdict,) = store.verdicts()
    assert verdict.outcome == "tie"


def test_an_earlier_store_comes_first_and_is_not_changed(tiny_run: Path, tmp_path: Path) -> None:
    earlier = tiny_run / "preferences/store.db"
    before = digest_path(earlier)
    settings = CompareSettings(
        responses=[str(tiny_run / "responses/responses.jsonl")],
        output_dir=str(tmp_path),
        earlier=str(earlier),
        round=7,
    )
    list(compare(settings))
    assert digest_path(earlier) == before
    with PreferenceStore.open(earlier, create=False) as store:
        old = store.verdicts()
    with PreferenceStore.open(tmp_path / "store.db", create=False) as store:
        together = store.verdicts()
    assert together[: len(old)] == old
    new = together[len(old) :]
    assert len(new) == 64  # two pairs of each of 32 prompts
    assert {verdict.round for verdict in new} == {7}
    with pytest.raises(DataError, match="must be a store in a file"):
        list(compare(settings.model_copy(update={"earlier": "postgresql://host/name"})))
