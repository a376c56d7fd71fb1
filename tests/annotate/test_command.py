"""`accord annotate`: what it refuses, and invitations."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.cli.entry import run

STORE = "prefs.db"


@pytest.fixture(autouse=True)
def in_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.db", "none.db does not exist"),
        ("rows.jsonl", "is no preference store"),
        ("prefs.db tasks=pairs", "tasks"),
        ("prefs.db size=9 task=rankings", "size"),
        ("prefs.db guidelines=none.md", "none.md can't be read"),
        ("prefs.db checks=none.jsonl", "none.jsonl"),
        ("prefs.db gold=ada", "no verdicts of 'ada'"),
        ("prefs.db models=[green]", "no prompt has two different responses of green"),
        ("prefs.db checks=x.jsonl task=labels", "checks are comparisons"),
        ("prefs.db --host 0.0.0.0", "Give --public-url too"),
        ("prefs.db --public-url lab.example.org", "is no address of a page"),
        ("prefs.db --tokens", "Nobody is invited"),
        ("prefs.db --tokens --annotator me", "Leave it out"),
        ("prefs.db --owner", "Give --invite NAME too"),
        ("prefs.db --revoke Eve", "No 'Eve' was invited"),
        ("prefs.db --port 1 --host 192.0.2.1 --tokens", "Nobody is invited"),
    ],
)
def test_requests_that_are_refused(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["annotate", *arguments.split()]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_invitations(capsys: pytest.CaptureFixture[str]) -> None:
    address = ["--public-url", "https://lab.example.org/annotate"]
    assert run(["annotate", STORE, "--invite", "Ada", "--invite", "Grace", *address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Ada: https://lab.example.org/annotate/enter#")
    assert lines[1].startswith("Grace: https://lab.example.org/annotate/enter#")
    assert run(["annotate", STORE, "--revoke", "Ada"]) == 0
    assert capsys.readouterr().out == "Ada has no access any more.\n"


def test_an_address_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("latex2mathml", reason="the extra `annotate` is not installed")
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert run(["annotate", STORE, "--port", port]) == 2
    assert f"Port {port} on 127.0.0.1 is in use." in capsys.readouterr().err
