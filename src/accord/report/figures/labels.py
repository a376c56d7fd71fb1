"""Names beside the points of a figure, where they meet neither each other nor a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from accord.report.figures.drawing import INK, MUTED

# All in display units, hundredths of an inch.
LETTER, LINE = 6.2, 13.0
APART = 10.0  # of a name from its point
MARK = 6.0  # a point's radius
FARTHEST = 4  # lines that a name may be moved up or down

Box = tuple[float, float, float, float]  # left, right, bottom, top


def name_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]], longest: int = 28
) -> None:
    """Write each point's name as near to it as there is room, with a line to it from afar.

    One that finds no room in the axes is left out (its colour is the one in the page's table).
    """
    figure.draw_without_rendering()  # the axes' limits and size are settled only now
    (left, bottom), (right, top) = axes.transAxes.transform([(0, 0), (1, 1)]).tolist()
    places = [axes.transData.transform((x, y)).tolist() for x, y, _ in points]
    marks = [(x - MARK, x + MARK, y - MARK, y + MARK) for x, y in places]
    names: list[Box] = []
    for i in sorted(range(len(points)), key=lambda i: -places[i][1]):
        x, y, name = points[i]
        shown = name if len(name) <= longest else f"{name[: longest - 1]}…"
        others = [*marks[:i], *marks[i + 1 :], *names]
        for side, rise in _offsets():
            box = _box(places[i], side, rise, LETTER * len(shown))
            inside = left <= box[0] and box[1] <= right and bottom <= box[2] and box[3] <= top
            if inside and not any(_meet(box, other) for other in others):
                break
        else:
            continue
        names.append(box)
        points_an_inch = 72 / figure.dpi
        label = axes.annotate(
            shown, (x, y), (side * 0.8 * APART, rise * points_an_inch),
            textcoords="offset points", ha="left" if side > 0 else "right", va="center",
            fontsize=8.5, color=INK,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0}
            if abs(rise) > LINE else None,
        )  # fmt: skip
        label.set_in_layout(False)  # a name must not make the axes smaller


def _offsets() -> Iterator[tuple[int, float]]:
    """Sides (1 is right) and rises to try, the nearest first."""
    yield from ((1, 0.0), (-1, 0.0))
    for half_lines in range(1, 2 * FARTHEST + 1):
        rise = half_lines * LINE / 2
        yield from ((1, -rise), (1, rise), (-1, -rise), (-1, rise))


def _box(place: Sequence[float], side: int, rise: float, length: float) -> Box:
    start = place[0] + side * APART
    low, high = sorted((start, start + side * length))
    return low, high, place[1] + rise - LINE / 2, place[1] + rise + LINE / 2


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
