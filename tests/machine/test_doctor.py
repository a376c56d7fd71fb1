"""`accord doctor`: whatever is broken is a row."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from accord.cli import main
from accord.machine import trials
from accord.machine.doctor import trial_rows
from accord.machine.installed import EXTRAS, extra_row, program_rows, requirement_rows
from accord.machine.network import hub_row, server_row
from accord.machine.row import DoctorRow, attempt
from accord.machine.trials import TRIALS, run_trials


def test_the_command_prints_each_section_and_ends_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("accord.machine.doctor.TRIALS", {"torch": TRIALS["torch"]})
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert not ended.value.code
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["section"] for row in rows} >= {"machine", "installed", "works"}
    by_name = {row["name"]: row for row in rows}
    assert {"accord", "python", "processor", "memory", "disk"} <= set(by_name)
    assert by_name["hub"]["state"] == "absent"
    assert next(row["detail"] for row in rows if row["section"] == "works").endswith("computes")


def test_every_trial_works_here_or_is_absent() -> None:
    for row in run_trials([name for name in TRIALS if name not in ("transformers", "compiler")]):
        assert row.state in ("ok", "absent", "slow"), row


def test_a_wrong_product_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    factors = torch.eye(4), torch.ones(4, 4)
    monkeypatch.setattr(trials, "_factors", lambda _: factors)
    assert attempt("works", "bf16", TRIALS["bf16"]).state == "ok"
    # A processor whose bf16 product of ones is 3 % off.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor * 1.03)
    row = attempt("works", "bf16", TRIALS["bf16"])
    assert row.state == "failed"
    assert "off by 6.09%" in row.detail  # 1.03² − 1


def test_a_compiler_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\necho 'fatal error: Python.h is missing' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    row = TRIALS["compiler"]()
    assert row.state == "failed"
    assert "Python.h is missing" in row.detail
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert TRIALS["compiler"]().state == "absent"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.kill(os.getpid(), 11)", "crashed (SIGSEGV)"),
        ("os._exit(3)", "ended with code 3"),
        ("time.sleep(60)", "no end within 1.5 s"),
    ],
)
def test_a_crash_takes_its_own_row_only(tmp_path: Path, fault: str, said: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys, time\n"
        "for name in sys.argv[1:]:\n"
        "    if name == 'bad':\n"
        "        print('{\"half', end='', flush=True)\n"
        f"        {fault}\n"
        "    row = {'section': 'works', 'name': name, 'state': 'ok', 'detail': str(os.getpid())}\n"
        "    print(json.dumps(row), flush=True)\n"
    )
    rows = list(trial_rows(["a", "bad", "b", "c"], program=[str(program)], seconds=1.5))
    assert [(row.name, row.state) for row in rows] == [
        ("a", "ok"),
        ("bad", "failed"),
        ("b", "ok"),
        ("c", "ok"),
    ]
    assert said in rows[1].detail
    assert rows[0].detail != rows[2].detail == rows[3].detail


def test_what_a_library_prints_is_not_read_as_a_row(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy() -> DoctorRow:
        os.write(1, b"Welcome!\n")
        return DoctorRow("works", "noisy", "ok", "done")

    monkeypatch.setattr(trials, "TRIALS", {"noisy": noisy})
    saved = os.dup(1), os.dup(2)
    try:
        trials.main(["noisy"])
    finally:
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
    assert [json.loads(line)["name"] for line in capfd.readouterr().out.splitlines()] == ["noisy"]


@pytest.mark.parametrize("error", [ImportError("no\nsuch symbol"), OSError("x"), SystemExit("y")])
def test_whatever_a_look_raises_is_a_row(error: BaseException) -> None:
    def look() -> DoctorRow:
        raise error

    row = attempt("works", "thing", look)
    assert (row.name, row.state) == ("thing", "failed")
    assert row.detail == f"{type(error).__name__}: {str(error).splitlines()[0]}"


def test_a_missing_and_an_old_library_are_rows_with_their_command() -> None:
    assert [row.state for row in requirement_rows(["numpy>=1.0", "vllm>=9; extra == 'vllm'"])] == [
        "ok"
    ]
    old, missing = requirement_rows(["numpy>=900", "no-such-library-at-all>=1", "scipy"])
    assert old.remedy == "pip install 'numpy>=900'"
    assert "accord needs no-such-library-at-all>=1" in missing.detail


def test_the_extras_include_those_of_the_package() -> None:
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert {*extras} - {"dev"} <= set(EXTRAS)


def test_an_extra_that_is_installed_in_part_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"all": (("json", "typer"), "x"), "part": (("typer", "no_such"), "x")}
    monkeypatch.setattr("accord.machine.installed.EXTRAS", {**known, "none": (("no_such",), "x")})
    assert [extra_row(name).state for name in ("all", "part", "none")] == ["ok", "failed", "absent"]
    assert extra_row("part").remedy == "pip install 'accord[part]'"
    assert "no_such missing" in extra_row("part").detail


def test_programs_are_looked_for_where_their_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accord.machine.installed.util.find_spec", lambda name: None)
    assert program_rows() == []
    monkeypatch.setattr("accord.machine.installed.util.find_spec", lambda name: name)
    monkeypatch.setattr("accord.machine.installed.shutil.which", lambda name: None)
    monkeypatch.setattr("accord.machine.installed._debian_initdb", lambda: "/usr/lib/initdb")
    chromium, postgresql = program_rows()
    assert (chromium.state, chromium.remedy) == ("absent", "playwright install chromium")
    assert postgresql.detail.startswith("/usr/lib/initdb")


class _Models(BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(self.answer)

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_a_server_is_asked_for_its_models(server: str, end: str) -> None:
    _Models.answer = b'{"data": [{"id": "one"}, {"id": "two"}]}'
    row = server_row(server + end)
    assert (row.state, row.detail) == ("ok", f"{server} serves one, two")


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"data": [3]}', b"\xff"])
def test_an_address_that_is_no_server_of_models_is_a_row(server: str, answer: bytes) -> None:
    _Models.answer = answer
    assert server_row(server).state == "failed"
    assert server_row("file:///etc/passwd").state == "failed"


def test_the_hub_answers_is_silent_or_is_not_asked(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server)  # it answers, with 403
    assert hub_row().state == "ok"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE=1" in hub_row().remedy
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_row().detail.startswith("not asked")
