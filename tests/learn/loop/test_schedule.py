"""The rows of each step and each forward pass, and the number of steps."""

from __future__ import annotations

from collections import Counter

import pytest

from accord.learn.loop.schedule import (
    RowOrder,
    Schedule,
    make_schedule,
    num_batches,
    total_examples,
)
from accord.settings.training import SftSettings
from tests.learn.toys.settings import REQUIRED
from tests.lm.models import VOCABULARY
from tests.lm.toys import random_groups


def test_passes_have_about_equal_numbers_of_tokens() -> None:
    # Tokens 20, 9, 8, 7, 4: the largest first, each to the lighter pass: 20 + 4 and 9 + 8 + 7.
    groups = random_groups([(10, (10,)), (4, (5,)), (4, (4,)), (3, (4,)), (2, (2,))], VOCABULARY)
    schedule = Schedule(rows=5, examples=5, micro_batch_size=3, accumulation=2)
    assert schedule.micro_batches(range(5), groups) == [[0, 4], [1, 2, 3]]
    # No pass above 17 tokens, as far as rows allow: the row of 20 stays alone.
    capped = Schedule(rows=5, examples=5, micro_batch_size=3, accumulation=2, max_tokens=17)
    for rows in capped.micro_batches(range(5), groups):
        assert len(rows) == 1 or sum(groups[i].num_tokens for i in rows) <= 17


def test_steps_cross_the_ends_of_epochs_and_no_row_is_left_out() -> None:
    # 10 rows, 2.5 epochs: 25 examples, 6 a step in two passes of 3: four steps of 6, one of 1.
    schedule = Schedule(rows=10, examples=25, micro_batch_size=3, accumulation=2)
    assert schedule.examples_per_step == 6
    assert schedule.steps == 5
    order = RowOrder(10, seed=4)
    groups = random_groups([(4, (3, 3))] * 10, VOCABULARY)
    steps = [
        schedule.micro_batches(schedule.step_rows(s, order), groups) for s in range(schedule.steps)
    ]
    assert [[len(rows) for rows in step] for step in steps] == [[3, 3]] * 4 + [[1]]
    seen = [i for s in range(schedule.steps) for i in schedule.step_rows(s, order)]
    assert [sorted(seen[6 * s : 6 * s + 6]) for s in range(5)] == [
        sorted(i for rows in step for i in rows) for step in steps
    ]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert len(set(seen[20:])) == 5
    assert seen[:10] != seen[10:20]


def test_the_row_order_is_a_function_of_seed_and_position() -> None:
    order = RowOrder(7, seed=1)
    forwards = [order.at(i) for i in range(21)]
    backwards = [RowOrder(7, seed=1).at(i) for i in reversed(range(21))]
    assert forwards == backwards[::-1]
    assert [RowOrder(7, seed=2).at(i) for i in range(21)] != forwards
    assert Counter(forwards) == dict.fromkeys(range(7), 3)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(1, None, 10), (2.5, None, 25), (0.25, None, 3), (0.001, None, 1), (3, 4, 32)],
)
def test_a_run_has_the_examples_of_its_epochs_or_of_max_steps(
    epochs: float, max_steps: int | None, expected: int
) -> None:
    examples = total_examples(10, epochs=epochs, max_steps=max_steps, step_size=8)
    assert examples == expected


@pytest.mark.parametrize(("epochs", "expected"), [(1.1, 110), (0.07, 7), (0.29, 29), (1e-5, 1)])
def test_a_fraction_of_an_epoch_is_exact_in_decimals(epochs: float, expected: int) -> None:
    # In floats 1.1·100 and 0.07·100 are above 110 and 7, which would be one row too many.
    assert total_examples(100, epochs=epochs, max_steps=None, step_size=8) == expected


def test_the_iterations_of_a_fraction_of_an_epoch_are_exact_in_decimals() -> None:
    # 1.1·100 prompts are 11 iterations of 10; one more prompt begins another iteration.
    assert num_batches(1.1, 100, 10) == 11
    assert num_batches(1.1, 101, 10) == 12  # 111.1 prompts


def test_the_schedule_follows_the_settings() -> None:
    settings = SftSettings(
        **REQUIRED, per_device_train_batch_size=4, gradient_accumulation_steps=3, num_train_epochs=2
    )
    schedule = make_schedule(10, settings)
    assert (schedule.examples, schedule.examples_per_step, schedule.steps) == (20, 12, 2)
