"""What a judge's verdicts become: pairs, rankings, or labels of single responses."""

from __future__ import annotations

from pathlib import Path

from accord.compare.dataset import load_records
from accord.compare.store import Store
from accord.pipeline.comparing import compare, labels_of
from accord.records import Ranking, Rating
from accord.settings.stages import CompareSettings


def test_a_label_says_whether_a_response_beats_more_than_beat_it() -> None:
    # The best of four beats 3, the next one beats 2 and is beaten by 1, and so on downwards.
    assert labels_of((2, 0, 3, 1)) == [False, True, False, True]
    # The middle of three beats as many as beat it, and so do responses that all tie.
    assert labels_of((1, 0, 2)) == [None, True, False]
    assert labels_of((0, 0, 0)) == [None, None, None]
    # Two share the first place: each beats 1 and is beaten by none.
    assert labels_of((0, 0, 2)) == [True, True, False]


def test_labels_are_those_of_the_rankings_one_row_a_response(
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
    told = [(r.prompt, r.response, r.score) for r in ratings if isinstance(r, Rating)]
    assert told == expected
    with Store.open(tmp_path / "labels/store.db", create=False) as store:
        counts = store.counts()
    assert counts["ratings"] == counts["verdicts"] == len(expected) > 0
