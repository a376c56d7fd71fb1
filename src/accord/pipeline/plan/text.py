"""A plan as text: an overview, and of each stage the rows, roles, phases and first batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from accord.learn.online.memory import RoleMemory
from accord.learn.plan.phases import StageMemory
from accord.lm.packing import PromptGroup
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.run import PlannedStage

SHOWN_CHARACTERS = 700  # of a row of the first batch
OPEN, CLOSE = "⟦", "⟧"  # around what is trained on, also where there is no colour


def gigabytes(count: float) -> str:
    """Bytes in GB (2³⁰), or MB (2²⁰) below one."""
    if count >= 2**30:
        return f"{count / 2**30:,.2f}\N{NO-BREAK SPACE}GB"
    if count >= 2**20 or not count:
        return f"{count / 2**20:,.0f}\N{NO-BREAK SPACE}MB"
    return f"{count / 2**20:.2f}\N{NO-BREAK SPACE}MB"


def overview(stages: Sequence[PlannedStage], machine: Machine) -> RenderableType:
    """A row for each training stage, and whether it fits."""
    table = Table(title=f"Training on {machine.name}", title_justify="left", expand=False)
    peak = "peak" if machine.count == 1 else "peak of a process"
    for name in ("stage", "method", "rows", "steps", "tokens", peak, "fits"):
        table.add_column(name, justify="left" if name in ("stage", "method", "fits") else "right")
    for stage in stages:
        facts, memory = stage.facts, stage.memory
        at_most = "≤ " if facts is not None and facts.unknown else ""
        table.add_row(
            Text(stage.plan.name),
            Text(_method(stage)),
            _number(facts.used if facts else None),
            _number(facts.steps if facts else None),
            _number(facts.tokens if facts else None),
            f"{at_most}{gigabytes(memory.peak)}" if memory else "?",
            _verdict(stage, machine),
        )
    notes = [Text(_explain(stage), style="dim") for stage in stages if _explain(stage)]
    return Group(table, *notes)


def render_stage(stage: PlannedStage) -> Iterator[RenderableType]:
    """One stage in full."""
    yield Text(f"{stage.plan.name} ({_method(stage)}): {stage.state}", style="bold")
    if stage.sharing:
        yield Padding(Text(stage.sharing), (0, 0, 0, 2))
    facts, memory = stage.facts, stage.memory
    if facts is not None:
        for line in fact_lines(stage):
            yield Padding(Text(line), (0, 0, 0, 2))
    if memory is not None:
        yield Padding(role_table(memory.roles), (0, 0, 0, 2))
        yield Padding(phase_table(stage), (0, 0, 0, 2))
        yield Padding(Text(peak_line(memory)), (0, 0, 0, 2))
    if stage.problem is not None:
        yield Padding(Text(stage.problem, style="yellow"), (0, 0, 0, 2))
    if facts is not None and facts.first and stage.model is not None:
        yield Padding(Text("The first batch; what is trained on is marked ⟦so⟧:"), (0, 0, 0, 2))
        for group in facts.first[:2]:
            yield Padding(marked_text(group, stage.model.tokenizer), (0, 0, 0, 4))


def fact_lines(stage: PlannedStage) -> Iterator[str]:
    """What is known of the rows, in sentences."""
    facts = stage.facts
    assert facts is not None
    settings: Any = stage.plan.settings
    if facts.unknown:
        yield (
            f"The rows are not known: {facts.unknown}. The memory is that of rows as long as "
            f"allowed ({facts.longest:,} tokens), so it is a bound from above."
        )
    elif facts.sampled:
        yield (
            f"{facts.rows:,} rows, of which {facts.sampled:,} were tokenised: what follows is an "
            f"estimate from them."
        )
    each = " in each process" if stage.processes > 1 else ""
    if facts.steps is not None and facts.tokens is not None:
        yield (
            f"{facts.steps:,} steps of {facts.passes} passes{each}, {facts.tokens:,} tokens in "
            f"all; the longest row has {facts.longest:,} tokens "
            f"(max_length={settings.max_length:,})."
        )
    for note in facts.notes:
        yield f"{note[:1].upper()}{note[1:]}."


def role_table(roles: dict[str, RoleMemory] | Any) -> Table:
    """What each role holds throughout, a role a row."""
    table = Table(title="Held throughout, by role", title_justify="left", title_style="")
    table.add_column("role")
    quantised = any(role.quantised for role in roles.values())
    names = ("weights", *(("4-bit weights",) if quantised else ()), "fp32 masters", "gradients")
    for name in (*names, "optimiser", "together"):
        table.add_column(name, justify="right")
    for name, role in roles.items():
        four_bit = (role.quantised,) if quantised else ()
        numbers = (role.weights, *four_bit, role.masters, role.gradients, role.moments, role.total)
        table.add_row(Text(name), *(gigabytes(n) if n else "–" for n in numbers))
    return table


def phase_table(stage: PlannedStage) -> Table:
    """The phases of a step: the run's peak is that of the largest."""
    memory = stage.memory
    assert memory is not None
    tokens = f"; the largest pass has {memory.tokens:,} tokens" if memory.tokens else ""
    table = Table(title=f"Phases{tokens}", title_justify="left", title_style="")
    table.add_column("phase")
    table.add_column("what it needs")
    table.add_column("at its peak", justify="right")
    for phase in memory.phases:
        parts = ", ".join(f"{name} {gigabytes(n)}" for name, n in phase.parts.items() if n)
        style = "bold" if phase is memory.largest else ""
        table.add_row(phase.name, parts, gigabytes(phase.total), style=style)
    return table


def peak_line(memory: StageMemory) -> str:
    """How the run's peak comes from the phases."""
    return (
        f"The run's peak: {gigabytes(memory.largest.total)} of the largest phase, and "
        f"{gigabytes(memory.beside)} that the process holds beside its tensors (buffers, the "
        f"tokenizer, blocks of memory between two uses): {gigabytes(memory.peak)}."
    )


def marked_text(group: PromptGroup, tokenizer: Any) -> Text:
    """A row's prompt and responses as text, with what is trained on marked and control characters
    escaped."""
    text = Text(style="dim")
    text.append(_shown(tokenizer.decode(list(group.prompt)), keep_end=True))
    for k, response in enumerate(group.responses):
        if response == (0,):  # of an online method, which samples it
            text.append(f"{OPEN}the policy's answer{CLOSE}", style="not dim green")
            continue
        if len(group.responses) > 1:
            text.append(f"\n[response {k + 1}] ", style="not dim bold")
        mask = group.loss_mask[k] if group.loss_mask else (True,) * len(response)
        for trained, ids in _segments(response, mask):
            piece = _shown(tokenizer.decode(list(ids)))
            if trained:
                text.append(f"{OPEN}{piece}{CLOSE}", style="not dim green")
            else:
                text.append(piece)
    return text


def _segments(ids: Sequence[int], mask: Sequence[bool]) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Runs of tokens that are all trained on, or all not."""
    start = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or mask[i] != mask[start]:
            yield mask[start], tuple(ids[start:i])
            start = i


def _shown(text: str, *, keep_end: bool = False) -> str:
    if len(text) > SHOWN_CHARACTERS:
        text = f"… {text[-SHOWN_CHARACTERS:]}" if keep_end else f"{text[:SHOWN_CHARACTERS]} …"
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _method(stage: PlannedStage) -> str:
    settings: Any = stage.plan.settings
    lora = "LoRA" if settings.lora is not None else "full"
    return f"{stage.plan.method}, {lora}, {settings.precision}"


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _verdict(stage: PlannedStage, machine: Machine) -> Text:
    fits = stage.fits(machine)
    if fits is None:
        return Text("not known", style="yellow")
    return Text("yes", style="green") if fits else Text("no", style="red")


def _explain(stage: PlannedStage) -> str:
    if stage.problem is not None:
        return f"{stage.plan.name}: {stage.problem}"
    if stage.facts is not None and stage.facts.unknown:
        return f"{stage.plan.name}: {stage.facts.unknown}."
    return ""
