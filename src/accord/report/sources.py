"""Where the numbers of the page come from: files, responses, verdicts, settings, and the method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.report.formatting import visible
from accord.report.lineage import Lineage
from accord.report.reading import ReportInputs
from accord.settings.stages import Contestant

METHODS: Mapping[str, tuple[str, str, str]] = {
    "measures": (
        "Means have cluster-robust intervals and shares exact ones, with prompts as the "
        "independent units.",
        "Cameron and Miller 2015",
        "https://doi.org/10.3368/jhr.50.2.317",
    ),
    "ratings": (
        "Bradley-Terry strengths by maximum likelihood, on the Elo scale; the ranks' bounds hold "
        "for all models at once.",
        "Bradley and Terry 1952",
        "https://doi.org/10.2307/2334029",
    ),
    "audits": (
        "A verdict follows from the interval of a number and two limits: what the data do not show "
        "to be tolerable does not pass.",
        "Clopper and Pearson 1934",
        "https://doi.org/10.1093/biomet/26.4.404",
    ),
}
_SAMPLING = ("num_responses", "temperature", "top_p", "max_new_tokens", "seed")


@dataclass(frozen=True, slots=True)
class NumberSource:
    """What a kind of number is computed from. `items` are names with their facts; `method` is a
    sentence, with the title and the address of its source."""

    title: str
    file: str
    items: list[tuple[str, str]]
    method: str
    reference: str
    address: str


def sources(inputs: ReportInputs) -> list[NumberSource]:
    """A source for the measures, one for the ratings, and one for each file of audits."""
    return list(_sources(inputs))


def _sources(inputs: ReportInputs) -> Iterator[NumberSource]:
    if inputs.evaluation is not None:
        lineage = Lineage(inputs.stages)
        yield _source(
            "measures",
            "Measures of responses",
            _name(inputs.evaluation_path, inputs.run),
            [(c.name, _responses(c, inputs, lineage)) for c in inputs.contestants],
        )
    if inputs.ratings is not None:
        yield _source(
            "ratings",
            "Ratings",
            _name(inputs.ratings_path, inputs.run),
            list(_rating_facts(inputs.ratings, inputs)),
        )
    for path, document in inputs.audits:
        changed = {
            key: value
            for key, value in document.settings.items()
            if isinstance(value, str | int | float) and not isinstance(value, bool)
        }
        items = [(key, str(value)) for key, value in changed.items() if key != "output_dir"]
        title = {"audit": "Audits", "redteam": "Red-teaming", "probe": "Probe"}[document.kind]
        yield _source("audits", f"{title} of {document.subject}", _name(path, inputs.run), items)


def _rating_facts(ratings: Mapping[str, Any], inputs: ReportInputs) -> Iterator[tuple[str, str]]:
    """The comparisons behind the ratings, who judged them, and where each verdict is."""
    battles = sum(row.get("battles") or 0 for row in ratings.get("models", ()))
    yield "comparisons", f"{battles // 2:,}"
    if inputs.ratings_path is not None:
        folder = inputs.ratings_path.parent
        stage = next((s for s in inputs.stages if s.folder.resolve() == folder.resolve()), None)
        judge = {} if stage is None else stage.settings.get("judge") or {}
        facts = [f"{k}={judge[k]}" for k in ("kind", "name", "model", "noise") if judge.get(k)]
        if facts:
            yield "judge", ", ".join(facts)
        if (folder / "store.db").is_file():
            yield "verdicts", _name(folder / "store.db", inputs.run)
    for note in ratings.get("notes", ()):
        yield "note", str(note)


def _source(method: str, title: str, file: str, items: list[tuple[str, str]]) -> NumberSource:
    shown = [(visible(name), visible(fact)) for name, fact in items]
    return NumberSource(visible(title), visible(file), shown, *METHODS[method])


def _responses(contestant: Contestant, inputs: ReportInputs, lineage: Lineage) -> str:
    """A contestant's responses: how many, their file, and how they were sampled and selected."""
    rows = inputs.answers.get(contestant.name, ())
    counted = sum(len(row.responses) for row in rows)
    facts = [f"{counted:,} responses to {len(rows):,} prompts"] if rows else []
    facts.append(_name(Path(contestant.responses), inputs.run))
    for stage in lineage.ancestors(contestant.responses):
        if stage.kind == "select":
            facts.append(f"best of {stage.settings.get('n')}")
        if stage.kind == "sample":
            facts.append(_sampling(stage.settings))
            break
    return "; ".join(fact for fact in facts if fact)


def _sampling(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={settings[key]}" for key in _SAMPLING if key in settings)


def _name(path: Path | None, run: Path) -> str:
    """A path relative to the run's folder, where it lies in it."""
    if path is None:
        return ""
    resolved, root = path.resolve(), run.resolve()
    return str(resolved.relative_to(root) if resolved.is_relative_to(root) else path)
