"""What a running stage shows: its bar with activities, and messages that are said one time."""

from __future__ import annotations

import io
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator

import pytest
from rich.console import Console

from accord.pipeline.console import messages_above_bar, run_with_bar
from accord.pipeline.progress import Progress
from accord.runs.activity import report_activity, with_activity
from accord.settings.recipe import single_stage

PLAN = single_stage("sample", overrides=["model=m", "dataset=d", "output_dir=out"])


def screen(work: Iterator[Progress], width: int = 80) -> str:
    """All that a terminal is sent while the work is done."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None)
    with messages_above_bar(console):
        run_with_bar(PLAN, work, console)
    return file.getvalue()


def lines(text: str) -> list[str]:
    return [part.rstrip() for line in text.splitlines() for part in line.split("\x1b[2K")]


def test_an_activity_is_shown_until_the_next_unit_of_work() -> None:
    def work() -> Iterator[Progress]:
        for _ in with_activity(range(4), "tokenising", 4):
            pass
        report_activity("loading the model")
        yield Progress(1, 4, "loss 0.693")
        report_activity("sampling 3/8")
        yield Progress(4, 4, "loss 0.500")

    shown = screen(work())
    assert ["tokenising 0/4" in shown, "loading the model" in shown] == [True, True]
    assert "1/4" in next(line for line in lines(shown) if "sampling 3/8" in line)
    assert "sampling" not in lines(shown)[-1]
    assert all(len(line) <= 80 for line in lines(shown)), shown


def test_without_a_bar_activities_go_nowhere() -> None:
    assert list(with_activity("abc", "reading")) == ["a", "b", "c"]
    report_activity("nobody reads this")
    assert not logging.getLogger("accord.activity").handlers


def test_a_message_is_printed_one_time_and_a_warning_says_so() -> None:
    def work() -> Iterator[Progress]:
        log = logging.getLogger("accord.test")
        for _ in range(3):
            log.info("36 rows, %d used", 36)
            log.warning("9 rows are not learned from")
        log.info("36 rows, %d used", 35)
        yield Progress(1, 1)

    shown = screen(work())
    assert shown.count("36 rows, 36 used") == 1
    assert shown.count("36 rows, 35 used") == 1
    assert shown.count("Warning: 9 rows are not learned from") == 1


def test_warnings_for_the_developers_of_libraries_are_not_shown() -> None:
    def work() -> Iterator[Progress]:
        with warnings.catch_warnings(record=True) as caught:
            for category in (FutureWarning, DeprecationWarning):
                warnings.warn("a name will change", category, stacklevel=1)
            assert caught == []
            warnings.warn("the disk is slow", UserWarning, stacklevel=1)
            assert len(caught) == 1
        yield Progress(1, 1)

    screen(work())


def test_an_interrupt_is_acknowledged_at_once_and_ends_after_the_step() -> None:
    def work() -> Iterator[Progress]:
        yield Progress(1, 4, "loss 0.693")
        os.kill(os.getpid(), signal.SIGINT)
        end = time.monotonic() + 10
        while "interrupted: ends" not in file.getvalue():  # while the step goes on
            assert time.monotonic() < end
            time.sleep(0.01)
        yield Progress(2, 4, "loss 0.500")
        raise AssertionError("the work goes on")

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120, color_system=None)
    with pytest.raises(KeyboardInterrupt):
        run_with_bar(PLAN, work(), console)
    last = [line for line in lines(file.getvalue()) if "2/4 " in line][-1]
    assert "elapsed, " in last
    assert "interrupted: ends after this step; once more to end at once" in last
