"""Code that a run imports can't end it as done."""

from __future__ import annotations

import pytest
import typer

from accord.cli import entry


@pytest.mark.parametrize("code", [0, None, 3, "bye"])
def test_an_exit_within_a_command_is_a_failure(
    code: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def work() -> None:
        raise SystemExit(code)

    monkeypatch.setattr(entry, "app", app)
    assert entry.run([]) == 1
    assert f"ended it by sys.exit({code!r})" in capsys.readouterr().err
