"""Records of the kind that a method needs, from rows of whatever format serves it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from accord.data.columns import BESIDES, COLUMNS, Cells, Format, formats_of, names_of
from accord.data.files import Row, read_rows
from accord.data.formats import battle_of, demonstrations_of, meta_of, record_of
from accord.data.report import ReadReport, reasons
from accord.data.turns import RowError
from accord.errors import DataError
from accord.records import (
    Battle,
    Comparison,
    Demonstration,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Source,
    Text,
)

Kind = Literal[
    "text",
    "demonstrations",
    "comparisons",
    "rankings",
    "ratings",
    "prompts",
    "preferences",
    "sft",
    "kto",
    "any",
]
KINDS: dict[Kind, tuple[type[Record], ...]] = {
    "text": (Text,),
    "demonstrations": (Demonstration,),
    "comparisons": (Comparison,),
    "rankings": (Ranking,),
    "ratings": (Rating,),
    "prompts": (PromptOnly,),
    "preferences": (Comparison, Ranking),
    "sft": (Demonstration, Text),
    "kto": (Rating, Comparison, Ranking),
    "any": (PromptOnly, Text, Demonstration, Comparison, Ranking, Rating),
}
PAIRS: set[Format] = {"preference", "implicit preference"}
# The formats that serve a kind, those that say it outright first.
SERVES: dict[Kind, tuple[Format, ...]] = {
    "text": ("text",),
    "demonstrations": (
        "prompt-completion",
        "messages",
        "preference",
        "implicit preference",
        "responses",
    ),
    "comparisons": ("preference", "implicit preference"),
    "rankings": ("ranking",),
    "ratings": ("unpaired", "rating", "preference", "implicit preference"),
    # The fullest first: an answer may tell that the prompt is a conversation.
    "prompts": (
        "preference",
        "ranking",
        "responses",
        "unpaired",
        "rating",
        "prompt-completion",
        "prompt",
        "messages",
        "implicit preference",
    ),
    "preferences": ("preference", "implicit preference", "ranking"),
    "sft": (
        "prompt-completion",
        "messages",
        "text",
        "preference",
        "implicit preference",
        "responses",
    ),
    "kto": ("unpaired", "rating", "preference", "implicit preference", "ranking"),
    "any": (
        "preference",
        "ranking",
        "responses",
        "unpaired",
        "rating",
        "prompt-completion",
        "implicit preference",
        "messages",
        "prompt",
        "text",
    ),
}
FITS: dict[Format, str] = {
    "battle": "an arena's ratings",
    "preference": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "implicit preference": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "ranking": "`reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`",
    "responses": "`sft`, as demonstrations; `accord sample` and the online methods, as prompts",
    "unpaired": "`kto`",
    "rating": "`kto`, whose `desirable_from` says from which score on a response is desirable",
    "prompt-completion": "`sft`",
    "messages": "`sft`",
    "text": "`sft`",
    "prompt": "`ppo` or `accord sample`, as prompts",
}


def read_records(place: str | Path, kind: Kind) -> tuple[list[Record], ReadReport]:
    """The records of `kind` at `place` (see `read_rows`), and what became of each row.

    A row that can't be used is left out and named in the report; so is what was converted.
    Raises DataError where nothing can be read, the columns don't serve `kind`, or no row is left.
    """
    rows = list(read_rows(place))
    columns = dict.fromkeys(c for row in rows for c, v in row.values.items() if v is not None)
    forms = _forms(str(place), kind, list(columns))
    names = names_of(columns)
    notes: Counter[str] = Counter()
    records: list[Record] = []
    dropped: dict[str, list[tuple[Source, str]]] = {}
    for row in rows:
        form = next((f for f in forms if _complete(row, f, names)), forms[0])
        try:
            records += _serve(row, form, kind, names, notes)
        except RowError as problem:
            dropped.setdefault(problem.reason, []).append((row.source, problem.detail))
    lost = sum(len(where) for where in dropped.values())
    if not records:
        raise DataError(
            f"{place} has {len(rows):,} rows, none of which can be used as {kind}: "
            f"{'; '.join(reasons(dropped))}. Correct the rows, or give another data set."
        )
    told = [_counted(note, n, len(rows) - lost) for note, n in notes.items()]
    told += _places(str(place), rows) + _unread(columns, forms, names, kind)
    return records, ReadReport(str(place), len(rows), len(rows) - lost, len(records), dropped, told)


def read_battles(place: str | Path) -> tuple[list[Battle], ReadReport]:
    """An arena's battles (`model_a`, `model_b`, `winner`), and what became of each row."""
    rows = list(read_rows(place))
    columns = dict.fromkeys(c for row in rows for c in row.values)
    if "battle" not in formats_of(columns):
        raise DataError(_wrong_columns(str(place), "battles", list(columns), ["battle"]))
    battles: list[Battle] = []
    dropped: dict[str, list[tuple[Source, str]]] = {}
    for row in rows:
        try:
            battles.append(battle_of(row))
        except RowError as problem:
            dropped.setdefault(problem.reason, []).append((row.source, problem.detail))
    if not battles:
        raise DataError(
            f"{place} has {len(rows):,} rows, none of which is a battle: "
            f"{'; '.join(reasons(dropped))}. Correct the rows, or give another data set."
        )
    return battles, ReadReport(
        str(place), len(rows), len(battles), len(battles), dropped, _places(str(place), rows)
    )


def _forms(place: str, kind: Kind, columns: list[str]) -> list[Format]:
    """The format that the columns have for `kind`, and what some of its rows may be instead."""
    there = formats_of(columns)
    forms = [form for form in SERVES[kind] if form in there]
    if "ranking" in there and "ranking" not in SERVES[kind] and kind != "prompts":
        forms = [form for form in forms if form != "responses"]  # a ranking's are no objects
    if not forms:
        raise DataError(_wrong_columns(place, kind, columns, SERVES[kind]))
    others: dict[str, tuple[Format, ...]] = {
        "preferences": ("ranking",),
        "prompts": ("prompt",),
        "kto": SERVES["kto"],
    }
    return [forms[0], *(form for form in forms[1:] if form in others.get(kind, ()))]


def _wrong_columns(place: str, what: str, columns: Sequence[str], forms: Sequence[Format]) -> str:
    wanted = "; or ".join(", ".join(COLUMNS[form]) for form in forms)
    message = (
        f"{place} has the columns {', '.join(columns) or '(all empty)'}; {what} need {wanted}."
    )
    fit = [FITS[form] for form in formats_of(columns)[:1]]
    if fit:
        return f"{message} These rows would fit {fit[0]}."
    missing = {c for form in forms for c in COLUMNS[form]} - set(names_of(columns))
    for column in columns:
        near = difflib.get_close_matches(column, sorted(missing), n=1, cutoff=0.75)
        if near:
            return f"{message} Did you mean `{near[0]}` by `{column}`? Rename it."
    return f"{message} Rename the columns, or give another data set."


def _complete(row: Row, form: Format, names: dict[str, str]) -> bool:
    return all(row.values.get(names[c]) is not None for c in COLUMNS[form])


def _serve(
    row: Row, form: Format, kind: Kind, names: dict[str, str], notes: Counter[str]
) -> Iterable[Record]:
    wanted, cells = KINDS[kind], Cells(row.values, names, row.source)
    if kind == "prompts" and type(cells.get("completion")) in (int, float):
        form = "prompt"  # a number to check answers with tells nothing of the prompt
    if form == "responses" and Demonstration in wanted and PromptOnly not in wanted:
        notes["each response is read as a demonstration"] += 1
        return demonstrations_of(row, names)
    record = record_of(row, form, names, notes)
    if isinstance(record, wanted):
        return [record]
    if PromptOnly in wanted and not isinstance(record, PromptOnly | Text):
        notes["only the prompts are read"] += 1
        meta = meta_of(cells, form)
        if cells.name("completion") == "answer":  # what a response may be held against
            meta = {"answer": cells.get("completion"), **meta}
        return [PromptOnly(record.prompt, row.source, meta)]
    if isinstance(record, Comparison):
        target = next(t for t in wanted if t in FROM_COMPARISON)
        note, convert = FROM_COMPARISON[target]
        notes[note] += 1
        return convert(record)
    raise RowError("the conversation does not end with the assistant's answer")


FROM_COMPARISON: dict[type[Record], tuple[str, Callable[[Comparison], list[Record]]]] = {
    Demonstration: (
        "the chosen responses are read as demonstrations",
        lambda pair: [Demonstration(pair.prompt, pair.chosen, pair.source, pair.chosen_finished)],
    ),
    Rating: (
        "each comparison is read as two ratings, chosen 1 and rejected 0",
        lambda pair: [
            Rating(pair.prompt, pair.chosen, 1.0, pair.source, pair.chosen_finished),
            Rating(pair.prompt, pair.rejected, 0.0, pair.source, pair.rejected_finished),
        ],
    ),
}


def _counted(note: str, count: int, used: int) -> str:
    # A note may be counted twice in one row, once for each response.
    return note if count >= used else f"in {count:,} rows, {note}"


def _places(place: str, rows: Sequence[Row]) -> list[str]:
    places = list(dict.fromkeys(row.source.place for row in rows))
    if places == [place] or (len(places) == 1 and Path(places[0]) == Path(place).expanduser()):
        return []
    return [f"read from {', '.join(places)}"]


def _unread(
    columns: Iterable[str], forms: Sequence[Format], names: dict[str, str], kind: Kind
) -> list[str]:
    """Columns that nothing was made of, such as those of another format in the same rows."""
    if kind == "prompts":
        return []  # they are kept in `meta`
    read = {names.get(c, c) for form in forms for c in COLUMNS[form]}
    if "prompt" in COLUMNS[forms[0]]:
        read |= set(BESIDES) - ({"input"} if names["prompt"] == "prompt" else set())
    else:
        read |= {"margin", "meta", "finished"}
    if Comparison not in KINDS[kind] or not PAIRS & set(forms):
        read.discard("margin")  # it is a pair's
    if "responses" in forms:
        read |= {"model", "settings"}  # these tell of the responses
    others = [c for c in columns if c not in read]
    return [f"columns not read: {', '.join(others)}"] if others else []
