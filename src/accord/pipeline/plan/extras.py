"""As text: what to change where a plan does not fit, what fits, what was measured, the roles of
other methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from accord.pipeline.plan.changes import Fit, Remedy
from accord.pipeline.plan.compare import Variant
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.measure import Measured
from accord.pipeline.plan.run import PlannedStage
from accord.pipeline.plan.text import gigabytes


def remedy_table(name: str, remedies: Sequence[Remedy]) -> Table | Text:
    """What each change would save, first what changes nothing that is learned."""
    if not remedies:
        return Text(f"{name} does not fit, and no setting makes it smaller: use a smaller model.")
    table = Table(title=f"{name} does not fit. Each of these by itself", title_justify="left")
    for column in ("change", "at the cost of"):
        table.add_column(column)
    for column in ("saves", "peak", "fits"):
        table.add_column(column, justify="right")
    for remedy in remedies:
        table.add_row(
            Text(remedy.change),
            remedy.cost,
            gigabytes(remedy.saved),
            gigabytes(remedy.peak),
            Text("yes", style="green") if remedy.fits else Text("no", style="red"),
        )
    return table


def fit_line(fitted: Fit, machine: Machine) -> str:
    """The largest value, and what bounds it."""
    if fitted.value is None:
        return f"No {fitted.key} fits {machine.name}. The remedies of `accord plan` save more."
    peak = fitted.stage.memory.peak if fitted.stage is not None and fitted.stage.memory else 0
    bound = f"; {fitted.limit}" if fitted.limit else ", and one more does not fit"
    return f"{fitted.key}={fitted.value} fits: its peak is {gigabytes(peak)}{bound}."


def measured_lines(stage: PlannedStage, measured: Measured, machine: Machine) -> Iterator[str]:
    """Seconds of a step, of the run, and the peak beside that which was planned."""
    if machine.count > 1:
        yield (
            f"The steps below were measured in one process, with the whole model and the rows of "
            f"one: what {machine.count} processes exchange takes more time, and is not in it."
        )
    steps = stage.facts.steps if stage.facts is not None else None
    total = f", {_duration(measured.seconds * steps)} for {steps:,} steps" if steps else ""
    yield f"Measured: {measured.seconds:,.2f} s a step{total}."
    if measured.planned:
        ratio = measured.planned / measured.peak - 1 if measured.peak else 0.0
        yield (
            f"Memory of these steps above the libraries: {gigabytes(measured.peak)} measured, "
            f"{gigabytes(measured.planned)} planned ({ratio:+.0%})."
        )


def comparison_table(variants: Sequence[Variant]) -> Table:
    """A role a row, a way to train a column; at the end the largest phase and the peak."""
    table = Table(title="The same model and rows, trained otherwise", title_justify="left")
    table.add_column("")
    for variant in variants:
        table.add_column(variant.name, justify="right")
    roles = list(dict.fromkeys(role for v in variants for role in _roles(v)))
    for role in roles:
        table.add_row(role, *(_cell(_roles(v).get(role)) for v in variants))
    for part in ("activations", "keys and values"):
        numbers = [max(p.parts.get(part, 0) for p in v.memory.phases) for v in variants]
        if any(numbers):
            table.add_row(part, *(_cell(n) for n in numbers))
    table.add_section()
    table.add_row("peak", *(gigabytes(v.memory.peak) for v in variants), style="bold")
    table.add_row("in the phase", *(_phase(v) for v in variants), style="dim")
    return table


def _roles(variant: Variant) -> dict[str, int]:
    names: Any = {"model": "policy"}
    return {names.get(n, n): role.total for n, role in variant.memory.roles.items()}


def _cell(count: int | None) -> str:
    return "–" if count is None else "0" if not count else gigabytes(count)


def _phase(variant: Variant) -> str:
    return variant.memory.largest.name.partition(",")[0]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
