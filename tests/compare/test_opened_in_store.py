"""What the chat template already wrote of a response is stored with it: a thought that never ends
is no answer, wherever stored responses are measured, judged, shown, exported or imported."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from accord.compare.exchange.exporting import export_preferences
from accord.compare.exchange.importing import import_preferences
from accord.compare.judges.people import load_voted_pairs
from accord.compare.store import connection as store_connection
from accord.compare.store.chats import read_chat
from accord.compare.store.migrations import MIGRATIONS, migrate
from accord.compare.store.pairs import ResponseText, different_pairs
from accord.compare.store.queue import QueueItem, read_texts, response_digests
from accord.compare.store.rows import Selection
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict, RankingVerdict, RatingVerdict
from accord.data.write import ResponseRow, read_responses, write_responses
from accord.errors import DataError
from accord.pipeline.labels.pairs import PairSource
from accord.pipeline.stages.battles import build_from_store
from accord.records import Message, Response
from accord.settings.label import LabelSettings

THOUGHT, ENDED, PLAIN = "hm " * 9, "hm</think>It is 4.", "It is 5."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Responses of three models to a prompt: an unended thought, an ended one, none; judged."""
    path = tmp_path / "store.db"
    with PreferenceStore.open(path) as store:
        a, b, c = store.add_responses(
            [
                Response("2+2?", THOUGHT, "a", opened="<think>\n"),
                Response("2+2?", ENDED, "b", opened="<think>\n"),
                Response("2+2?", PLAIN, "c"),
            ]
        )
        store.add_verdicts(
            [
                PairVerdict(a, b, "b", "ann", source="person", shown_first="a"),
                PairVerdict(a, c, "b", "ann", source="person", shown_first="a"),
                RankingVerdict((a, b, c), (2, 0, 1), "bo", source="person"),
                RatingVerdict(a, 0.0, "bo", source="person"),
            ]
        )
    return path


def answers(path: Path) -> dict[str, str]:
    with PreferenceStore.read(path) as store:
        return {r.response.model: r.response.answer for r in store.responses()}


def item(*ids: int) -> QueueItem:
    return QueueItem(1, "", None, ids, None, None, 0)


def test_stored_responses_have_answers_and_not_thoughts(path: Path) -> None:
    assert answers(path) == {"a": "", "b": "It is 4.", "c": PLAIN}
    with PreferenceStore.read(path) as store:
        chunks = [j.responses for _, j in store.judged_chunks(Selection(kind="pair"))]
    for responses in chunks:
        assert [r.answer for r in responses.values()] == ["", "It is 4.", PLAIN]


def test_an_arena_measures_the_style_of_answers(path: Path) -> None:
    with PreferenceStore.read(path) as store:
        builder, _ = build_from_store(store)
    table = builder.table()
    assert table.lengths is not None
    names = np.array(table.names)
    sides = zip((table.a, table.b), table.lengths.T, strict=True)
    lengths = {
        (names[m], n) for models, column in sides for m, n in zip(models, column, strict=True)
    }
    assert lengths == {("a", 0.0), ("b", 8.0), ("c", 8.0)}


def test_judges_are_asked_about_answers(path: Path) -> None:
    with PreferenceStore.open(path) as store:
        settings = LabelSettings.model_validate(
            {"judges": [{"kind": "endpoint", "base_url": "http://x/v1", "model": "m"}]}
        )
        (batch,) = PairSource.open(store, settings).batches()
        assert [pair.candidates.answers for pair in batch] == [
            ("", "It is 4."),
            ("", PLAIN),
            ("It is 4.", PLAIN),
        ]
    voted, _ = load_voted_pairs(str(path))
    assert (f"<think>\n{THOUGHT}", PLAIN) in {(p.response_a, p.response_b) for p in voted}


def test_people_see_where_a_thought_begins(path: Path) -> None:
    with (
        PreferenceStore.open(path) as store,
        store_connection.transaction(store.engine, store.path, writes=False) as connection,
    ):
        shown = read_texts(connection, item(1, 2, 3)).responses
        assert shown == (f"<think>\n{THOUGHT}", f"<think>\n{ENDED}", PLAIN)
        ((_, digests),) = response_digests(connection, [])
    assert len(set(digests.values())) == 3


def test_equal_texts_differ_where_one_is_a_thought() -> None:
    texts = [ResponseText(1, "It.", True), ResponseText(2, "It.", True, "<think>")]
    assert len(list(different_pairs(texts))) == 1
    assert not list(different_pairs([texts[0], ResponseText(3, "It.", True)]))


def test_a_red_teams_conversation_has_the_opened_thought(tmp_path: Path) -> None:
    with PreferenceStore.open(tmp_path / "s.db") as store:
        prompt = (Message("user", "Hi."),)
        (id_,) = store.add_responses([Response(prompt, ENDED, "m", opened="<think>")])
        with store_connection.transaction(store.engine, store.path, writes=False) as connection:
            chat = read_chat(connection, item(id_))
    assert chat.turns[-1].content == f"<think>{ENDED}"


@pytest.mark.parametrize("form", ["verdicts", "csv", "rankings", "pairs", "kto"])
def test_what_was_opened_goes_out_and_comes_back(form: str, path: Path, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{'csv' if form == 'csv' else 'jsonl'}"
    export_preferences(path, file, form)
    again = tmp_path / "again.db"
    result = import_preferences(file, again)
    assert result.added
    with PreferenceStore.read(again) as store:
        read = {(r.response.text, r.response.opened) for r in store.responses()}
    assert read == {(THOUGHT, "<think>\n"), (ENDED, "<think>\n"), (PLAIN, "")}
    assert import_preferences(file, again).added == 0


@pytest.mark.parametrize("form", ["verdicts", "rankings", "pairs", "kto", "csv"])
def test_files_without_it_are_as_before(form: str, tmp_path: Path) -> None:
    with PreferenceStore.open(tmp_path / "s.db") as store:
        ids = store.add_responses([Response("p", text, "m") for text in ("x", "y")])
        store.add_verdicts([PairVerdict(*ids, "a", "ann")])
    file = tmp_path / f"rows.{'csv' if form == 'csv' else 'jsonl'}"
    export_preferences(tmp_path / "s.db", file, form)
    assert "opened" not in file.read_text()


def test_a_row_that_says_it_wrongly_is_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "x", "rejected": "y", "opened": ["<think>"]},
        {"prompt": "p", "chosen": "x", "rejected": "z"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = import_preferences(file, tmp_path / "s.db")
    assert "`opened` must be 2 texts" in result.report.summary()
    assert result.added == 1


def test_a_store_of_version_4_opens_and_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    engine, name = store_connection.make_engine(path, create=True)
    with store_connection.transaction(engine, name, writes=True) as connection:
        migrate(connection, name, create=True, migrations=MIGRATIONS[:4])
    engine.dispose()
    with closing(sqlite3.connect(path)) as old, old:
        old.execute("INSERT INTO prompts VALUES (1, 'd', '\"p\"', '{}', 't')")
        old.execute(
            "INSERT INTO responses (id, prompt_id, text, model, settings, finished, created)"
            " VALUES (1, 1, 'hm</think>yes', 'm', '{}', 1, 't')"
        )
    before = path.read_bytes()
    assert answers(path) == {"m": "yes"}
    assert path.read_bytes() == before
    with PreferenceStore.open(path) as store:
        store.add_responses([Response("p", "hm", "n", opened="<think>")])
    assert answers(path) == {"m": "yes", "n": ""}


def test_responses_of_a_row_may_be_opened_differently(tmp_path: Path) -> None:
    opened = [("<think>", "<think>"), ("<think>", ""), ("", "")]
    rows = [
        ResponseRow("p", {}, "m", {}, tuple(Response("p", "x", "m", opened=o) for o in of_row))
        for of_row in opened
    ]
    path = tmp_path / "responses.jsonl"
    write_responses(path, rows)
    read = read_responses(path)
    assert [tuple(r.opened for r in row.responses) for row in read] == opened
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("opened") for line in lines] == ["<think>", None, None]
    path.write_text('{"prompt": "p", "model": "m", "responses": [{"text": 3}]}\n')
    with pytest.raises(DataError, match="`text`"):
        read_responses(path)
