"""Names beside the points of a figure, without overlaps between names and points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from accord.report.figures.drawing import INK, MUTED

# All in display units, hundredths of an inch.
LETTER_WIDTH, LINE_HEIGHT = 6.2, 13.0
NAME_DISTANCE = 10.0  # from a name to its point
POINT_RADIUS = 6.0
MAX_SHIFT = 4  # lines by which a name may be moved up or down

Box = tuple[float, float, float, float]  # left, right, bottom, top


def name_points(
    figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]], longest: int = 28
) -> None:
    """Write each point's name at the nearest free position, with a line to a distant point.

    A name for which the axes have no room is left out (the page's table shows its colour).
    """
    figure.draw_without_rendering()  # computes the axes' limits and size
    (left, bottom), (right, top) = axes.transAxes.transform([(0, 0), (1, 1)]).tolist()
    positions = [axes.transData.transform((x, y)).tolist() for x, y, _ in points]
    r = POINT_RADIUS
    marks = [(x - r, x + r, y - r, y + r) for x, y in positions]
    names: list[Box] = []
    for i in sorted(range(len(points)), key=lambda i: -positions[i][1]):
        x, y, name = points[i]
        shown = name if len(name) <= longest else f"{name[: longest - 1]}…"
        obstacles = [*marks[:i], *marks[i + 1 :], *names]
        for side, rise in _offsets():
            box = _box(positions[i], side, rise, LETTER_WIDTH * len(shown))
            inside = left <= box[0] and box[1] <= right and bottom <= box[2] and box[3] <= top
            if inside and not any(_overlap(box, obstacle) for obstacle in obstacles):
                break
        else:
            continue
        names.append(box)
        points_per_inch = 72 / figure.dpi
        label = axes.annotate(
            shown, (x, y), (side * 0.8 * NAME_DISTANCE, rise * points_per_inch),
            textcoords="offset points", ha="left" if side > 0 else "right", va="center",
            fontsize=8.5, color=INK,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 0}
            if abs(rise) > LINE_HEIGHT else None,
        )  # fmt: skip
        label.set_in_layout(False)  # a name must not shrink the axes


def _offsets() -> Iterator[tuple[int, float]]:
    """Sides (1 is right) and rises to try, the nearest first."""
    yield from ((1, 0.0), (-1, 0.0))
    for half_lines in range(1, 2 * MAX_SHIFT + 1):
        rise = half_lines * LINE_HEIGHT / 2
        yield from ((1, -rise), (1, rise), (-1, -rise), (-1, rise))


def _box(point: Sequence[float], side: int, rise: float, length: float) -> Box:
    start = point[0] + side * NAME_DISTANCE
    low, high = sorted((start, start + side * length))
    return low, high, point[1] + rise - LINE_HEIGHT / 2, point[1] + rise + LINE_HEIGHT / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
