"""The stage `revise`: critique and revision by a constitution, judged against the originals.

Each chunk of rows is appended to a partial log; what is trained on is made of the whole log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from accord.compare.constitution.draw import draw_principles, read_constitution
from accord.compare.constitution.principles import Principle
from accord.compare.constitution.reading import read_revision
from accord.compare.constitution.revising import NotWritten, Revised, revise_responses
from accord.compare.dataset import load_records
from accord.compare.judges.questions import BothOrders, Candidates
from accord.compare.store.connection import is_store
from accord.compare.store.store import PreferenceStore
from accord.data.write import read_responses
from accord.errors import DataError, WorkError
from accord.pipeline.progress import Progress
from accord.pipeline.stages.compare import CountingJudge
from accord.pipeline.stages.judges import build_judge
from accord.pipeline.stages.revised import PARTIAL, LogRow, finish_files, log_json
from accord.pipeline.stages.revisers import NamedReviser, build_reviser
from accord.records import PromptOnly, Response
from accord.runs import digest_json, storage_errors
from accord.settings.identity import identity_settings
from accord.settings.revise import ReviseSettings

log = logging.getLogger(__name__)

CHUNK = 64
"""Rows whose critiques are requested together, and that are lost when a run is killed; of a model
in process at most its batch."""
ANSWER_STREAM = 1999  # of the random draws for a row's first answer: no round has it


def revise(settings: ReviseSettings) -> Iterator[Progress]:
    """Write revisions.jsonl (all that was written), conversations.jsonl, sft.jsonl, store.db (where
    there are preferences) and revise.json (the counts). Resumes after an interruption."""
    principles = read_constitution(settings.constitution, settings.principles)
    reviser = build_reviser(settings.reviser, principles, settings.seed)
    judge = None if settings.judge is None else CountingJudge(build_judge(settings.judge))
    prompts, responses = _read_inputs(settings)
    total = len(prompts) or len(responses)
    folder = Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / PARTIAL
    done = _resume(partial, settings)
    size = min(CHUNK, settings.reviser.batch_size) if settings.reviser.kind == "local" else CHUNK
    yield Progress(done, total)
    while done < total:
        rows = range(done, min(done + size, total))
        chunk = responses[rows.start : rows.stop]
        if prompts:
            chunk = _answer(prompts[rows.start : rows.stop], reviser, first=rows.start)
        revised = _revise_chunk(chunk, principles, reviser, settings, first=rows.start)
        verdicts = _judge_chunk(chunk, revised, judge)
        _append(partial, chunk, revised, verdicts, rows)
        done = rows.stop
        yield Progress(done, total, _note(revised))
    usage = {
        **({"reviser": dict(reviser.usage())} if reviser.usage else {}),
        **({"judge": dict(judge.judge.usage())} if judge and judge.judge.usage else {}),
    }
    finish_files(settings, None if judge is None else judge.judge, reviser.name, usage)
    partial.unlink()


def _read_inputs(settings: ReviseSettings) -> tuple[list[PromptOnly], list[Response]]:
    """The prompts to be answered, or else the responses to be revised. Raises DataError where there
    are none."""
    if settings.dataset is not None:
        records, report = load_records(settings.dataset, "prompts", settings.dialogue_text)
        log.info("%s: %s", report.name, report.summary())
        return [r for r in records if isinstance(r, PromptOnly)][: settings.max_responses], []
    responses = list(islice(_iterate_responses(settings.responses), settings.max_responses))
    if not responses:
        raise DataError(
            f"{', '.join(settings.responses)} holds no responses. Give a responses.jsonl as "
            f"`accord sample` writes it, or a preference store with responses."
        )
    return [], responses


def _iterate_responses(paths: Sequence[str]) -> Iterator[Response]:
    for path in paths:
        if is_store(path):
            with PreferenceStore.read(path) as store:
                yield from (stored.response for stored in store.responses())
        else:
            for row in read_responses(path):
                yield from row.responses


def _resume(partial: Path, settings: ReviseSettings) -> int:
    """The number of rows that an earlier run with the same settings finished, in whole chunks.

    The rest is removed from the partial log: a chunk is written as a whole or done again.
    """
    header = json.dumps({"settings": digest_json(identity_settings(settings))})
    lines = partial.read_bytes().split(b"\n") if partial.is_file() else [b""]
    done = 0
    if lines[0] == header.encode():
        rows = [line for line in lines[1:-1] if line]
        ends = [i for i, line in enumerate(rows, start=1) if json.loads(line).get("chunk_end")]
        done = ends[-1] if ends else 0
    with storage_errors(partial):
        partial.write_bytes(b"\n".join([header.encode(), *lines[1 : done + 1], b""]))
    return done


def _answer(prompts: Sequence[PromptOnly], reviser: NamedReviser, *, first: int) -> list[Response]:
    """The reviser's answers to prompts; one that it did not answer, or only begun, is empty: it is
    not examined, and counted."""
    assert reviser.answer is not None  # ReviseSettings refuses prompts for one that can't answer
    streams = [2000 * (first + i) + ANSWER_STREAM for i in range(len(prompts))]
    answers = reviser.answer([record.prompt for record in prompts], streams)
    texts = ["" if isinstance(a, NotWritten) or not a.finished else a.text for a in answers]
    return [
        Response(record.prompt, (read_revision(text) or "").strip(), reviser.name)
        for record, text in zip(prompts, texts, strict=True)
    ]


def _revise_chunk(
    chunk: Sequence[Response],
    principles: Sequence[Principle],
    reviser: NamedReviser,
    settings: ReviseSettings,
    *,
    first: int,
) -> list[Revised]:
    """The rows after all rounds. Raises WorkError where not one critique of the first chunk can be
    read: then the reviser does not work."""
    drawn = [
        draw_principles(principles, settings.rounds, seed=settings.seed, row=first + i)
        for i in range(len(chunk))
    ]
    texts = [(response.prompt, response.text) for response in chunk]
    revised = revise_responses(texts, drawn, reviser.reviser, first_row=first)
    rounds = [each for row in revised for each in row.rounds]
    if first == 0 and all(each.outcome == "no critique" for each in rounds):
        reason = rounds[0].reason if rounds else "no response has a text"
        raise WorkError(
            f"The reviser {reviser.name} wrote no critique of any of {len(chunk)} responses. Of "
            f"the first: {reason}. Raise answer_tokens where it was cut; otherwise use a model "
            f"that follows instructions."
        )
    return revised


def _judge_chunk(
    chunk: Sequence[Response], revised: Sequence[Revised], judge: CountingJudge | None
) -> dict[int, Mapping[str, Any]]:
    """By index the judge's verdict on each changed response against its original."""
    changed = [i for i, row in enumerate(revised) if row.text != row.original]
    if judge is None or not changed:
        return {}
    pairs = [
        Candidates(
            chunk[i].prompt, (revised[i].original, revised[i].text), (chunk[i].finished, True)
        )
        for i in changed
    ]
    if judge.judge.both_orders is not None:
        answers: Sequence[Any] = judge.both_orders(pairs)
    else:
        answers = judge.rank(pairs)
    return {i: _verdict_json(answer) for i, answer in zip(changed, answers, strict=True)}


def _verdict_json(answer: BothOrders | Sequence[int] | None) -> dict[str, Any]:
    if answer is None:
        return {"missing": True}
    if isinstance(answer, BothOrders):
        return {
            "forward": answer.forward,
            "backward": answer.backward,
            "answers": list(answer.answers),
            "shown_first": list(answer.shown_first),
        }
    return {"ranks": list(answer)}


def _append(
    partial: Path,
    chunk: Sequence[Response],
    revised: Sequence[Revised],
    verdicts: Mapping[int, Mapping[str, Any]],
    rows: range,
) -> None:
    lines = []
    for i, (response, row) in enumerate(zip(chunk, revised, strict=True)):
        entry = LogRow(
            rows.start + i,
            response,
            row,
            verdicts.get(i),
        )
        end = {"chunk_end": True} if i == len(chunk) - 1 else {}
        lines.append(json.dumps({**log_json(entry), **end}, ensure_ascii=False) + "\n")
    with storage_errors(partial), partial.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def _note(revised: Sequence[Revised]) -> str:
    changed = sum(row.changed for row in revised)
    return f"{changed} of the last {len(revised)} revised"
