"""`accord chat` from its arguments: folders, runs, servers, rewards, piped input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from accord.cli.app import app
from accord.compare.store.store import PreferenceStore
from accord.errors import ModelError, RequestError
from accord.lm.loading.folders import model_of_run
from tests.lm.toys import save_toy
from tests.serve.fake_upstream import FakeUpstream, fake_upstream


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is a toy."""
    run = tmp_path_factory.mktemp("runs") / "toy"
    save_toy(run / "model")
    return run


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with fake_upstream() as server:
        yield server


def chat(*arguments: str, lines: str | bytes) -> str:
    result = CliRunner().invoke(app, ["chat", *arguments], input=lines)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def test_a_run_s_model_answers_piped_lines(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("rewards: [{kind: length, at_least: 99}]\n")
    seeded = ["--seed", "1", "--max-tokens", "6", "--device", "cpu"]
    lines = f"the cat\n/best 3\nthe cat\n/save {tmp_path}/talk.jsonl\n/exit\n"
    out = chat(str(toy), *seeded, "--reward", str(tmp_path / "r.yaml"), lines=lines)
    assert "You talk with toy." in out
    assert "Best of 3:" in out
    messages = json.loads((tmp_path / "talk.jsonl").read_text())["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    again = chat(str(toy), *seeded, lines="the cat\n")
    assert messages[1]["content"] in again  # the seed gives the same answer
    # What is no UTF-8 is replaced: nothing downstream takes half a character.
    assert "> the \ufffd cat\n" in chat(str(toy), *seeded, lines=b"the \xff cat\n")


def test_a_model_and_a_server_side_by_side(
    toy: Path, upstream: FakeUpstream, tmp_path: Path
) -> None:
    store = tmp_path / "votes.db"
    models = [str(toy), f"{upstream.url}#served"]
    options = ["--store", str(store), "--annotator", "ada", "--max-tokens", "4", "--device", "cpu"]
    out = chat(*models, *options, "--system", "Be kind.", lines="the cat\n1\n")
    assert f"go into {store}" in out
    # The transcript shows who said what.
    assert "\n> the cat\n[1] " in out
    assert "\nWhich is better? 1, 2, t (tie), b (both bad) or s (skip): 1\nVotes: " in out
    with PreferenceStore.read(store) as opened:
        (verdict,) = opened.verdicts()
        models_stored = {r.response.model for r in opened.responses()}
    assert verdict.outcome in ("a", "b")
    assert models_stored == {"toy", "served"}
    assert upstream.bodies[0]["messages"][0] == {"role": "system", "content": "Be kind."}
    # Without a name the server's first model is asked.
    assert "You talk with " in chat(upstream.url, lines="hi\n")
    assert upstream.bodies[-1]["model"] == "served"


def test_what_a_path_names(toy: Path, tmp_path: Path) -> None:
    assert model_of_run(str(toy)) == str(toy / "model")
    assert model_of_run(str(toy / "model")) == str(toy / "model")
    assert model_of_run("org/name") == "org/name"
    shutil.copytree(toy, tmp_path / "run/a")
    assert model_of_run(str(tmp_path / "run")) == str(tmp_path / "run/a/model")
    (tmp_path / "run/b/model").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"several models\. Name one of them: .*/a, .*/b"):
        model_of_run(str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "c"], "with one model, or with two"),
        (["a", "a"], "named twice"),
        (["a", "--best", "4"], "--reward MODEL as well"),
        (["a", "--best", "4", "--reward", "r", "--temperature", "0"], "no choice"),
        (["http://127.0.0.1:9/v1#m", "--api-key-env", "NOT_SET_HERE"], "NOT_SET_HERE"),
    ],
)
def test_arguments_that_do_not_fit(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    result = CliRunner().invoke(app, ["chat", *arguments], input="")
    assert isinstance(result.exception, RequestError)
    assert message in str(result.exception)
