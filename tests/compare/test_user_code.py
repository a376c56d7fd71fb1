"""What a user's function may do to the process: it ends in an error of its name, or is put back."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from accord.compare.rewards import user_code
from accord.errors import RewardError
from tests.compare.reward_sources import PROMPTS, TEXTS, reward_from

HEAD = "import asyncio, logging, os, signal, sys, torch\n"


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    user_code._warn_once.cache_clear()
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)


def score_with(tmp_path: Path, body: str, head: str = "def f(responses):") -> list[float]:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + head + "\n    " + body.replace("\n", "\n    ") + "\n")
    return reward_from({"kind": "python", "function": f"{path}:f"})(PROMPTS, TEXTS)


ENDS = [
    ("sys.exit(0)", "sys.exit: 0"),
    ("sys.exit()", "sys.exit"),
    ("sys.exit('done')", "sys.exit: done"),
    ("raise BaseException('x')", "BaseException: x"),
    ("raise GeneratorExit", "GeneratorExit"),
    ("raise StopIteration", "StopIteration"),
    ("raise MemoryError", "MemoryError"),
    ("return (sys.exit(0) for r in responses)", "sys.exit: 0"),
]


@pytest.mark.parametrize(("body", "message"), ENDS)
def test_what_ends_a_run_is_an_error_of_the_function(
    tmp_path: Path, body: str, message: str
) -> None:
    with pytest.raises(RewardError, match=f"mine.py:f failed on 2 responses.*{message}"):
        score_with(tmp_path, body)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("body", "message"), [*ENDS[:6], ("await asyncio.gather(g())", "ended the event loop")]
)
def test_and_of_a_coroutine(tmp_path: Path, body: str, message: str) -> None:
    head = "async def g():\n    sys.exit(0)\nasync def f(responses):"
    with pytest.raises(RewardError, match=f"mine.py:f failed on 2 responses.*{message}"):
        score_with(tmp_path, body, head)
    assert score_with(tmp_path, "return [1.0, 2.0]", "async def f(responses):") == [1.0, 2.0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_a_task_has_ended_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it that fails, or is logged, whenever garbage is next collected."""
    failed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    ended = user_code.event_loop().loop
    head = "async def g():\n    sys.exit(0)\nasync def f(responses):"
    body = "asyncio.ensure_future(g())\nawait asyncio.sleep(9)"
    with pytest.raises(RewardError, match="ended the event loop"):
        score_with(tmp_path, body, head)
    assert ended.is_closed()
    assert user_code.event_loop().loop is not ended
    del ended
    gc.collect()
    assert (failed, caplog.records) == ([], [])


def test_an_interrupt_is_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_with(tmp_path, "raise KeyboardInterrupt")


@pytest.mark.parametrize("body", ["sys.exit(3)", "raise BaseException('x')"])
def test_an_import_that_ends_the_run(tmp_path: Path, body: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}{body}\ndef f(responses): pass\n")
    with pytest.raises(RewardError, match=r"importing .*mine.py failed with (sys.exit: 3|BaseExc)"):
        reward_from({"kind": "python", "function": f"{path}:f"})


CHANGES = [
    ("os.chdir('/')", "os.chdir"),
    ("torch.set_default_dtype(torch.float64)", "default dtype"),
    ("torch.set_default_device('meta')", "default device"),
    ("torch.set_grad_enabled(False)", "gradients"),
    ("torch.use_deterministic_algorithms(True)", "deterministic"),
    ("torch.set_num_threads(torch.get_num_threads() + 1)", "number of threads"),
    ("signal.signal(signal.SIGINT, lambda *_: None)", "handler of SIGINT"),
    ("signal.signal(signal.SIGTERM, lambda *_: None)", "handler of SIGTERM"),
    ("logging.disable(logging.CRITICAL)", "switched off logging"),
    ("sys.stdout = open(os.devnull, 'w')", "sys.stdout"),
    ("sys.stderr = None", "sys.stderr"),
    ("os.dup2(os.open(os.devnull, os.O_WRONLY), 1)", "file descriptor 1"),
    ("os.close(2)", "file descriptor 2"),
]


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize(("change", "warning"), CHANGES)
def test_what_it_changes_is_put_back(
    tmp_path: Path, change: str, warning: str, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = state()
    with caplog.at_level(logging.WARNING):
        if raises:
            with pytest.raises(RewardError, match="ValueError"):
                score_with(tmp_path, f"{change}\nraise ValueError")
        else:
            for _ in range(2):
                assert score_with(tmp_path, f"{change}\nreturn [1, 2]") == [1.0, 2.0]
    assert state() == before
    (message,) = [r.getMessage() for r in caplog.records]
    assert warning in message
    assert "mine.py:f" in message


def state() -> tuple[object, ...]:
    return (
        os.getcwd(),
        sys.stdout,
        sys.stderr,
        [(os.fstat(n).st_dev, os.fstat(n).st_ino) for n in (1, 2)],
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        logging.root.manager.disable,
    )


def test_a_stream_that_it_closes_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))  # noqa: SIM115
    monkeypatch.setattr(sys, "__stdout__", sys.__stdout__)
    assert score_with(tmp_path, "sys.stdout.close()\nreturn [1, 2]") == [1.0, 2.0]
    print("still there")


def test_a_coroutine_that_changes_the_folder(tmp_path: Path) -> None:
    before = os.getcwd()
    body = "os.chdir('/')\nawait asyncio.sleep(0)\nreturn [1, 2]"
    assert score_with(tmp_path, body, "async def f(responses):") == [1.0, 2.0]
    assert os.getcwd() == before


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(responses):\n    return [1, 2]\n")
    reward = reward_from({"kind": "python", "function": f"{path}:f"})
    reward(PROMPTS, TEXTS)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        reward(PROMPTS, TEXTS)
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after == before
