"""What a data set holds, row by row, as text."""

from __future__ import annotations

from typing import get_args

from accord.data.columns import Format, detect_format
from accord.data.files import read_rows
from accord.data.read import FORMAT_USES, KINDS, Kind, read_battles, read_records
from accord.errors import RequestError
from accord.settings.reading.suggest import nearest

_KIND_OF: dict[Format, Kind] = {
    "preference": "comparisons",
    "implicit preference": "comparisons",
    "ranking": "rankings",
    "responses": "prompts",
    "unpaired": "ratings",
    "rating": "ratings",
    "prompt-completion": "demonstrations",
    "messages": "demonstrations",
    "text": "text",
    "prompt": "prompts",
}


def check_data(place: str, kind: str | None) -> str:
    """The report of reading `place` as `kind` (by default what its columns say), as text.

    Raises RequestError for an unknown kind, DataError where nothing can be read.
    """
    known = [*KINDS, "battles"]
    if kind is not None and kind not in known:
        near = nearest(kind, known)
        meant = f" Did you mean {near}?" if near else ""
        raise RequestError(
            f"There is no kind of rows {kind!r} (--kind).{meant} The kinds are {', '.join(known)}."
        )
    form = None
    if kind is None:
        columns = dict.fromkeys(c for row in read_rows(place) for c in row.values)
        form = detect_format(columns)
        kind = _KIND_OF.get(form, "battles")
    if kind == "battles":
        _, report = read_battles(place)
    else:
        _, report = read_records(place, next(k for k in get_args(Kind) if k == kind))
    fits = f"\nThe rows fit {FORMAT_USES[form]}." if form else ""
    return f"{place}, read as {kind}: {report.summary()}{fits}"
