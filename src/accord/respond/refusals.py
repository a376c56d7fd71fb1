"""What a refusal is about, by its status, its codes and its words.

Servers that speak one protocol refuse in words of their own. `REFUSALS` maps patterns of these
words to what they are about; tests have a table of such refusals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

RefusalKind = Literal[
    "too_long",  # the prompt, or the prompt with the room for its answer
    "limit_too_low",  # the limit on the answer's tokens leaves no room for one
    "limit_too_high",  # the model can't write that many tokens
    "limit_name",  # `max_tokens` has another name there
    "temperature",
    "schema",  # `response_format`, or what it holds
    "filtered",  # a content filter
    "credit",  # nothing is left to pay with
    "key",
    "model",  # it is not there
    "parameter",  # another parameter
    "other",
]

_UNSUPPORTED = (
    r"(?:not support|n't support|unsupported|unknown|unrecogni[sz]ed|unexpected|not permitted|"
    r"not allowed|forbidden|not available|unavailable|deprecated|must be|only the default|"
    r"may only|is only|are only|cannot|can't|invalid|extra)"
)
REFUSALS: Sequence[tuple[RefusalKind, str]] = (
    ("limit_too_low", r"could not finish the message because max_tokens"),
    (
        "limit_too_low",
        r"max(?:_completion|_output)?_tokens\b.*(?:below minimum|at least|too (?:low|small))",
    ),
    (
        "too_long",
        r"context[_ ](?:length|size)|maximum context|context window of|context_length_exceeded|"
        r"prompt (?:is )?too long|too many (?:input )?tokens|reduce the length|string_above_max|"
        r"input (?:is )?too long|input token count|exceeds? the (?:available|maximum) |"
        r"max_model_len|request too large|longer than the maximum|input validation error: `inputs`",
    ),
    (
        "limit_name",
        r"(?:use|instead).{0,20}max_completion_tokens|max_completion_tokens'? instead|"
        r"(?:unsupported|unknown|unrecogni[sz]ed) parameter[^a-z]*max_tokens\b",
    ),
    (
        "limit_too_high",
        r"max(?:_completion|_output|output)?_?tokens\b.*(?:too (?:large|high)|at most|>|"
        r"less than or equal|maximum (?:allowed|value)|exceed|range)",
    ),
    ("temperature", rf"temperature.*{_UNSUPPORTED}|{_UNSUPPORTED}.*temperature|strictly positive"),
    (
        "credit",
        r"insufficient[_ ](?:quota|credit|balance|funds)|credit balance|billing_(?:hard|error)|"
        r"requires more credits|payment required|out of credits",
    ),
    (
        "filtered",
        r"content[_ ]filter|content management policy|content policy|responsibleaipolicy|"
        r"moderation|flagged|prohibited_content|safety|usage policies",
    ),
    (
        "schema",
        r"response_format|response format|response_schema|json_schema|json_object|json mode|"
        r"structured[_ ]output|guided|grammar|additionalproperties|\bschema\b|\bformat\b",
    ),
    (
        "key",
        r"api[_ ]key|unauthori[sz]ed|authentication|credentials|access token|user not found|"
        r"no auth",
    ),
    (
        "model",
        r"model.{0,80}(?:not found|does ?n.t exist|does not exist|not a valid|no longer|"
        r"decommissioned|not exist|not available|is not supported)|no such model|"
        r"invalid model|model_not_found|deploymentnotfound|deployment.{0,40}not exist|"
        r"not a valid model",
    ),
    (
        "parameter",
        rf"{_UNSUPPORTED}.{{0,30}}(?:parameters?|arguments?|fields?|inputs?|name|keyword)|"
        r"(?:parameters?|arguments?|fields?|inputs).{0,60}(?:not (?:supported|permitted|allowed)|"
        r"unsupported)|extra_forbidden|no endpoints found that",
    ),
)
_BY_STATUS: dict[int, RefusalKind] = {401: "key", 402: "credit", 403: "key", 413: "too_long"}
_BY_PARAMETER: dict[str, RefusalKind] = {
    "temperature": "temperature",
    "response_format": "schema",
    "max_tokens": "limit_name",
    "model": "model",
}


def refusal_kind(
    status: int | None, message: str, names: Sequence[str] = (), parameter: str = ""
) -> RefusalKind:
    """What a refusal is about. `names` are the error's codes and types, `parameter` the one that
    it names."""
    if status in (401, 402):
        return _BY_STATUS[status]
    text = " ".join([message, *names]).casefold()
    for kind, pattern in REFUSALS:
        if re.search(pattern, text):
            return kind
    known = _BY_PARAMETER.get(parameter.partition(".")[0].casefold())
    return known or _BY_STATUS.get(status or 0, "other")
