"""Ratings with known answers, and a generator whose numbers no library decides."""

from __future__ import annotations

from accord.measure.agreement.ratings import CodedRatings, code_ratings

KRIPPENDORFF = [  # four observers, twelve units (Krippendorff 2011, C; None is missing)
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
FLEISS = [  # how often 14 raters gave each of five values to ten subjects (Wikipedia)
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def draw(count: int, seed: int, below: int) -> list[int]:
    """Whole numbers from 0 to `below` − 1 by the linear congruential generator of ISO C."""
    numbers, state = [], seed
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2**31
        numbers.append((state >> 16) % below)
    return numbers


def code_table(rows: list[list[int | None]]) -> CodedRatings:
    """Ratings from a table: one row a rater, one column an item."""
    cells = [(u, r, v) for r, row in enumerate(rows) for u, v in enumerate(row)]
    items, raters, values = zip(*cells, strict=True)
    return code_ratings(items, raters, values)


def code_counts(rows: list[list[int]]) -> CodedRatings:
    """Ratings from how often each item (a row) received each value (a column)."""
    cells = []
    for item, counts in enumerate(rows):
        given = [value for value, count in enumerate(counts) for _ in range(count)]
        cells += [(item, rater, value) for rater, value in enumerate(given)]
    items, raters, values = zip(*cells, strict=True)
    return code_ratings(items, raters, values)


def noisy_ratings() -> list[list[int]]:
    """Sixty items (rows) with the values 1 to 5 of four raters, who agree in part."""
    truth, noise, other = draw(60, 1, 5), draw(240, 2, 10), draw(240, 3, 5)
    return [
        [(truth[i] if noise[4 * i + r] < 6 else other[4 * i + r]) + 1 for r in range(4)]
        for i in range(60)
    ]


def with_gaps(rows: list[list[int]]) -> list[list[int | None]]:
    """`noisy_ratings` with a seventh of the ratings missing, one row a rater."""
    gap = draw(240, 4, 7)
    table = [
        [v if gap[4 * i + r] else None for r, v in enumerate(row)] for i, row in enumerate(rows)
    ]
    return [list(column) for column in zip(*table, strict=True)]


CROWD_ACCURACY = (92, 85, 78, 72, 60)  # percent


def crowd() -> tuple[CodedRatings, list[int]]:
    """A crowd of five raters of different quality on 400 items of three classes, with gaps, and
    the true classes."""
    truth = draw(400, 11, 3)
    luck, other, gap = draw(2000, 12, 100), draw(2000, 13, 2), draw(2000, 14, 5)
    rows = []
    for i in range(400):
        for r, accuracy in enumerate(CROWD_ACCURACY):
            k = 5 * i + r
            value = truth[i] if luck[k] < accuracy else (truth[i] + 1 + other[k]) % 3
            if gap[k]:
                rows.append((i, f"r{r}", value))
    items, raters, values = zip(*rows, strict=True)
    return code_ratings(items, raters, values), truth
