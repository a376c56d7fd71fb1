"""What follows from the signs of life of a run's processes."""

from __future__ import annotations

from dataclasses import replace

from accord.learn.loop.signs import Observer, Sign, lost_message, still_message, store_message

WORKS = Sign(0, "here, pid 1", doing="in fit (accord/learn/loop/fit.py:1)")
WAITS = replace(WORKS, waiting="limited")


def watched(
    watcher: Sign, *others: Sign, seconds: int, changing: tuple[str, ...] = ("beats",)
) -> Observer:
    """An observer (rank 0) after so many seconds; each second `changing` rises in all signs."""
    observer = Observer(0, 1 + len(others))
    for second in range(seconds + 1):
        signs = {
            rank: replace(sign, rank=rank, **dict.fromkeys(changing, second))
            for rank, sign in enumerate((watcher, *others))
        }
        observer.observe(second, signs, interval=1.0)
    return observer


def test_a_process_without_beats_is_silent_unless_it_has_ended() -> None:
    observer = watched(WAITS, WORKS, replace(WORKS, ended=True), seconds=11, changing=())
    assert [s.rank for s in observer.silent(11, 10)] == [0, 1]
    assert observer.silent(11, 11) == []
    assert [s.rank for s in observer.ended()] == [2]
    assert observer.since_beat(11, 1) == 11


def test_one_that_works_is_waited_for_however_long_it_takes() -> None:
    observer = watched(WAITS, WORKS, WAITS, seconds=100, changing=("beats", "progress"))
    assert observer.standing_still(100, 10) is None
    # It alone makes progress.
    observer = Observer(0, 3)
    for second in range(101):
        signs = {0: WAITS, 1: replace(WORKS, rank=1, progress=second), 2: replace(WAITS, rank=2)}
        observer.observe(second, signs, interval=1.0)
    assert observer.standing_still(100, 10) is None
    # A third hangs meanwhile.
    observer.observe(101, {2: replace(WORKS, rank=2)}, interval=1.0)
    assert observer.standing_still(110, 10) is None
    culprits = observer.standing_still(112, 10)
    assert culprits is not None
    assert [s.rank for s in culprits] == [1, 2]


def test_one_that_stands_still_is_named_by_those_that_wait_for_it() -> None:
    observer = watched(WAITS, WAITS, WORKS, seconds=11)
    culprits = observer.standing_still(11, 10)
    assert culprits is not None
    assert [s.rank for s in culprits] == [2]
    assert observer.standing_still(11, 11) is None
    message = still_message(0, culprits, 10)
    assert message.startswith("Process 0 waited ddp_timeout=10 seconds")
    assert "process 2 (here, pid 1) is in fit (accord/learn/loop/fit.py:1)" in message


def test_a_wait_without_limit_and_an_own_stop_are_no_finding() -> None:
    assert (
        watched(replace(WAITS, waiting="unlimited"), WORKS, seconds=99).standing_still(99, 10)
        is None
    )
    assert watched(WORKS, WAITS, seconds=99).standing_still(99, 10) is None


def test_processes_that_all_wait_for_each_other_are_found() -> None:
    observer = watched(WAITS, WAITS, seconds=11)
    assert observer.standing_still(11, 10) == []
    assert "all of them wait for each other" in still_message(0, [], 10)
    # One that has not said anything yet may still be starting.
    assert replace_world(observer, 3).standing_still(11, 10) is None


def replace_world(observer: Observer, size: int) -> Observer:
    observer.world_size = size
    return observer


def test_an_observer_that_slept_knows_nothing_of_the_time() -> None:
    observer = watched(WAITS, WORKS, seconds=1, changing=())
    observer.observe(500, {0: WAITS, 1: replace(WORKS, rank=1)}, interval=1.0)
    assert observer.silent(500, 10) == []
    assert observer.standing_still(500, 10) is None


def test_a_wait_begins_anew_with_each_exchange() -> None:
    observer = watched(WORKS, WORKS, seconds=9)
    observer.observe(10, {0: replace(WAITS, beats=10), 1: replace(WORKS, rank=1)}, interval=1.0)
    assert observer.standing_still(11, 10) is None


def test_a_lost_connection_names_the_others_that_are_gone() -> None:
    gone = [(replace(WORKS, rank=1), 3.2), (replace(WORKS, rank=2, ended=True), 0.0)]
    text = lost_message(0, "reset", [*gone, (WORKS, 9.0)])
    assert text.startswith("The processes of this run lost their connection: reset. The process 1")
    assert "3 seconds before it was in fit" in text
    assert "process 2 (here, pid 1) has ended, and its own message says why" in text
    assert "process 0" not in text
    assert "its own message says why" in lost_message(0, "reset", [])


def test_a_sign_is_read_as_it_was_given() -> None:
    assert Sign.from_bytes(WAITS.to_bytes()) == WAITS


def test_an_unreachable_store_is_said_in_one_line() -> None:
    text = store_message("recv: reset\nException raised from\nframe #1")
    assert "(recv: reset): it has ended" in text
    assert "frame" not in text
