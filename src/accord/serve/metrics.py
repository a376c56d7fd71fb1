"""Numbers of a server in Prometheus's text format; none of them holds text of a request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds


class Metrics:
    """Counts of answers by path and status, and durations."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()

    def count_answer(self, path: str, status: int | None) -> None:
        """Count an answer; the status None is that of a client that hung up before one."""
        self._answers[path, "closed" if status is None else str(status)] += 1

    def observe(self, name: str, seconds: float) -> None:
        """Add a duration to a histogram."""
        counts = self._durations.setdefault(name, [0] * (len(BUCKETS) + 1))
        counts[next((i for i, b in enumerate(BUCKETS) if seconds <= b), len(BUCKETS))] += 1
        self._sums[name] += seconds  # type: ignore[assignment]

    def render(self, gauges: Mapping[str, float]) -> str:
        """The text of /metrics; names of gauges that end in `_total` are counters'."""
        lines = ["# TYPE accord_answers_total counter"]
        for (path, status), count in sorted(self._answers.items()):
            labels = f'path="{_escape(path)}",status="{status}"'
            lines.append(f"accord_answers_total{{{labels}}} {count}")
        for name, counts in sorted(self._durations.items()):
            lines += self._histogram(name, counts)
        for name, value in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            name = re.sub(r"\W", "_", name)
            lines += [f"# TYPE accord_{name} {kind}", f"accord_{name} {value:.10g}"]
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str, counts: list[int]) -> list[str]:
        lines, total = [f"# TYPE accord_{name} histogram"], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            total += count
            lines.append(f'accord_{name}_bucket{{le="{bound}"}} {total}')
        return [
            *lines,
            f"accord_{name}_sum {self._sums[name]:.6f}",
            f"accord_{name}_count {total}",
        ]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
