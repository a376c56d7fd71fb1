"""What `revise` leaves: its log of all rounds, and the files and the store made of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from accord.compare.constitution.revising import Revised, RevisionRound
from accord.compare.judges.questions import BothOrders
from accord.compare.store.store import PreferenceStore
from accord.compare.store.verdicts import PairVerdict
from accord.data.write import record_json
from accord.measure.statistics import proportion_interval
from accord.pipeline.stages.compare import open_partial_store, rename_partial_store
from accord.pipeline.stages.judges import NamedJudge
from accord.pipeline.stages.verdicts import outcome_of_ranks, source_of, verdict_of_orders
from accord.records import (
    Demonstration,
    Message,
    Response,
    message_json,
    prompt_from_json,
    prompt_json,
    prompt_text,
    turns_json,
)
from accord.runs import write_json_atomic
from accord.runs.atomic import write_lines_atomic
from accord.settings.recipe import StagePlan
from accord.settings.revise import ReviseSettings

LOG, PARTIAL = "revisions.jsonl", "revisions.partial.jsonl"
STORED_TOGETHER = 100  # pairs in one transaction
ASSUMED = "assumed"
"""The annotator and source of preferences that nobody judged."""

Standing = Literal["better", "worse", "tie", "both_bad", "undecided", "missing", "unjudged"]


@dataclass(frozen=True, slots=True)
class LogRow:
    """A line of the log: the response that was revised, the rounds on it, and the judge's verdict
    on the last revision against the original, None where it was not asked."""

    number: int
    response: Response
    revised: Revised
    verdict: Mapping[str, Any] | None


def log_json(row: LogRow) -> dict[str, Any]:
    """The line as JSON; `read_log` reads it back."""
    response = row.response
    return {
        "row": row.number,
        "prompt": prompt_json(response.prompt),
        "model": response.model,
        "settings": dict(response.settings),
        "original": {
            "text": response.text,
            "tokens": response.tokens,
            "logp": response.logp,
            "finished": response.finished,
            **({"opened": response.opened} if response.opened else {}),
        },
        "rounds": [asdict(each) for each in row.revised.rounds],
        "verdict": row.verdict,
    }


def read_log(path: Path) -> Iterator[LogRow]:
    """The lines of a log, one at a time; its header is passed over."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            values = json.loads(line)
            if "row" in values:
                yield _parse_row(values)


def _parse_row(values: Mapping[str, Any]) -> LogRow:
    prompt, original = prompt_from_json(values["prompt"]), values["original"]
    rounds = [RevisionRound(**each) for each in values["rounds"]]
    revised = Revised(prompt, original["text"], rounds=rounds)
    for each in rounds:
        if each.outcome == "revised":
            revised.text = str(each.revision)
    response = Response(prompt, model=values["model"], settings=values["settings"], **original)
    return LogRow(values["row"], response, revised, values["verdict"])


def finish_files(
    settings: ReviseSettings,
    judge: NamedJudge | None,
    reviser: str,
    usage: Mapping[str, Mapping[str, int]],
) -> None:
    """Write all files from the partial log, each as a whole or not at all."""
    folder = Path(settings.output_dir)
    log = folder / PARTIAL
    write_lines_atomic(folder / LOG, (_line(log_json(each)) for each in read_log(log)))
    write_lines_atomic(
        folder / "conversations.jsonl",
        (_line(row) for each in read_log(log) for row in conversation_rows(each, settings, judge)),
    )
    write_lines_atomic(
        folder / "sft.jsonl",
        (
            _line(record_json(demonstration))
            for each in read_log(log)
            if (demonstration := demonstration_of(each, settings, judge)) is not None
        ),
    )
    if judge is not None or settings.assume_better:
        _write_store(folder / "store.db", log, settings, judge, reviser)
    counts = _count(log, settings, judge, reviser)
    write_json_atomic(folder / "revise.json", {**counts, "usage": usage})


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def standing(row: LogRow, judge: NamedJudge | None) -> Standing | None:
    """How the last revision stands to the original by the judge; None where nothing was revised."""
    if row.revised.text == row.revised.original:
        return None
    if judge is None or row.verdict is None:
        return "unjudged"
    if row.verdict.get("missing"):
        return "missing"
    outcome = _verdict(row, (0, 1), judge).outcome
    named: dict[str, Standing] = {"a": "worse", "b": "better", "tie": "tie"}
    return named.get(outcome, "undecided")


def _verdict(row: LogRow, ids: tuple[int, int], judge: NamedJudge) -> PairVerdict:
    """The verdict on original and revision, which have these ids in the store."""
    assert row.verdict is not None  # the caller has looked
    original, revision = ids
    if "ranks" in row.verdict:
        outcome = outcome_of_ranks(row.verdict["ranks"])
        return PairVerdict(
            original,
            revision,
            outcome,
            judge.name,
            shown_first=judge.shown_first,
            source=source_of(judge),
            judge=judge.fingerprint,
        )
    forward, backward = row.verdict["forward"], row.verdict["backward"]
    first, second = row.verdict["answers"]
    one, two = row.verdict.get("shown_first", (None, None))
    both = BothOrders(forward, backward, (first, second), (one, two))
    return verdict_of_orders((original, revision), both, judge, 0)


def is_accepted(row: LogRow, judge: NamedJudge | None) -> bool:
    """Whether the last revision may be imitated: the judge prefers it, or there is no judge."""
    return standing(row, judge) in ("better", "unjudged")


def demonstration_of(
    row: LogRow, settings: ReviseSettings, judge: NamedJudge | None
) -> Demonstration | None:
    """The response to imitate, or None."""
    revised = row.revised
    if is_accepted(row, judge):
        return Demonstration(revised.prompt, revised.text)
    if settings.demonstrations == "final" and revised.faultless:
        return Demonstration(revised.prompt, revised.original, finished=row.response.finished)
    return None


def conversation_rows(
    row: LogRow, settings: ReviseSettings, judge: NamedJudge | None
) -> Iterator[dict[str, Any]]:
    """A row for each revision that was not dropped, in Hugging Face's constitutional columns.

    `init_response` is what the critique is about. The last row of a response has `messages`, where
    the revision may be imitated, and `chosen` and `rejected`, where there is a preference.
    """
    retained = [each for each in row.revised.rounds if each.outcome == "revised"]
    before = row.revised.original
    turns = turns_json(row.revised.prompt)
    for each in retained:
        after = str(each.revision)
        yield {
            "index": row.number,
            "principle": each.principle,
            "prompt": prompt_text(row.revised.prompt),
            "init_prompt": {"role": "user", "content": prompt_text(row.revised.prompt)},
            "init_response": _turn("assistant", before),
            "critic_prompt": _turn("user", each.critique_request),
            "critic_response": _turn("assistant", str(each.critique)),
            "revision_prompt": _turn("user", each.revision_request),
            "revision_response": _turn("assistant", after),
            **(_training_columns(row, turns, settings, judge) if each is retained[-1] else {}),
        }
        before = after


def _training_columns(
    row: LogRow, turns: list[dict[str, Any]], settings: ReviseSettings, judge: NamedJudge | None
) -> dict[str, Any]:
    original = [*turns, _turn("assistant", row.revised.original)]
    revision = [*turns, _turn("assistant", row.revised.text)]
    stands = standing(row, judge)
    columns: dict[str, Any] = {"messages": revision} if is_accepted(row, judge) else {}
    if stands == "better" or (stands == "unjudged" and settings.assume_better):
        return {**columns, "chosen": revision, "rejected": original}
    if stands == "worse":
        return {**columns, "chosen": original, "rejected": revision}
    return columns


def _turn(role: Literal["user", "assistant"], text: str) -> dict[str, Any]:
    return message_json(Message(role, text))


def _write_store(
    final: Path, log: Path, settings: ReviseSettings, judge: NamedJudge | None, reviser: str
) -> None:
    """The originals and last revisions, with the verdicts on them."""
    rows = (row for row in read_log(log) if standing(row, judge) not in (None, "missing"))
    with open_partial_store(final) as store:
        while chunk := list(islice(rows, STORED_TOGETHER)):
            _add_pairs(store, chunk, judge, reviser)
    rename_partial_store(final)


def _add_pairs(
    store: PreferenceStore, rows: Sequence[LogRow], judge: NamedJudge | None, reviser: str
) -> None:
    responses = [each for row in rows for each in (row.response, _revision(row, reviser))]
    ids = store.add_responses(responses)
    pairs = zip(ids[::2], ids[1::2], strict=True)
    if judge is None:
        verdicts = [PairVerdict(*pair, "b", ASSUMED, source=ASSUMED) for pair in pairs]
    else:
        verdicts = [_verdict(row, pair, judge) for row, pair in zip(rows, pairs, strict=True)]
    store.add_verdicts(verdicts)


def _revision(row: LogRow, reviser: str) -> Response:
    last = next(each for each in reversed(row.revised.rounds) if each.outcome == "revised")
    recorded = {"revised_by": reviser, "principle": last.principle}
    model = f"{row.response.model}, revised"
    return Response(row.revised.prompt, row.revised.text, model, recorded)


def _count(
    log: Path, settings: ReviseSettings, judge: NamedJudge | None, reviser: str
) -> dict[str, Any]:
    """What happened to the responses, the rounds, and the revisions, with reasons."""
    responses: Counter[str] = Counter()
    rounds: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {"no critique": Counter(), "dropped": Counter()}
    principles: dict[str, Counter[str]] = {}
    standings: Counter[str] = Counter()
    demonstrations: Counter[str] = Counter()
    for row in read_log(log):
        responses["all"] += 1
        responses["without_text"] += not row.revised.rounds
        responses["faultless"] += row.revised.faultless
        stands = standing(row, judge)
        if stands is not None:
            responses["revised"] += 1
            standings[stands] += 1
        imitated = demonstration_of(row, settings, judge)
        if imitated is not None:
            demonstrations["originals" if stands is None else "revisions"] += 1
        for each in row.revised.rounds:
            rounds[each.outcome] += 1
            principles.setdefault(each.principle, Counter())[each.outcome] += 1
            if each.outcome in reasons:
                reasons[each.outcome][str(each.reason)] += 1
    decided = standings["better"] + standings["worse"] + standings["tie"]
    share = proportion_interval(standings["better"] + standings["tie"] / 2, decided)
    return {
        "reviser": reviser,
        "judge": None if judge is None else judge.name,
        "preferences": _basis(settings, judge),
        "responses": dict(responses),
        "rounds": dict(rounds),
        "without_critique": dict(reasons["no critique"]),
        "dropped": dict(reasons["dropped"]),
        "principles": {name: dict(counts) for name, counts in sorted(principles.items())},
        "revisions": dict(standings),
        "better_share": share.to_json(),
        "demonstrations": dict(demonstrations),
    }


def _basis(settings: ReviseSettings, judge: NamedJudge | None) -> str:
    """Where the preferences come from."""
    if judge is not None:
        return f"by the judge {judge.name}"
    if settings.assume_better:
        return "assumed, not judged: each revision counts as better than its original"
    return "none: no judge compared the revisions with their originals"


def result_table(plan: StagePlan) -> Table:
    """What happened, for the terminal."""
    path = Path(plan.settings.output_dir) / "revise.json"  # type: ignore[attr-defined]
    counts = json.loads(path.read_text(encoding="utf-8"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("responses", _listed(counts["responses"]))
    table.add_row("rounds", _listed(counts["rounds"]))
    for key in ("without_critique", "dropped"):
        if counts[key]:
            table.add_row(key.replace("_", " "), _listed(counts[key]))
    table.add_row("preferences", counts["preferences"])
    if counts["revisions"]:
        table.add_row("revisions", _listed(counts["revisions"]))
    share = counts["better_share"]
    if share is not None:
        table.add_row(
            "preferred",
            f"{share['mean']:.0%} of revisions, {share['low']:.0%} to {share['high']:.0%} "
            f"(95%, a tie is half)",
        )
    table.add_row("sft.jsonl", _listed(counts["demonstrations"]) or "no rows")
    return table


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
