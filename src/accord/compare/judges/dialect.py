"""What a judge's server takes: the body of a request in the strictest form that it accepts.

OpenAI-compatible servers differ in the name of the limit on an answer, in the temperatures and in
the response formats that they take. Each finds out by being refused; the next form is weaker in
one point. What no form mends is explained by `refusal_advice`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from accord.respond.http import RefusedError
from accord.respond.refusals import RefusalKind
from accord.settings.endpoint import EndpointSettings

ResponseFormat = Literal["json_schema", "json_object"] | None

REFUSES_PARAMETERS = (400, 404, 415, 422, 501)  # how servers refuse what they don't know
ABOUT_ONE_REQUEST: tuple[RefusalKind, ...] = ("too_long", "limit_too_low", "filtered", "other")
"""Refusals of one request; another may be accepted."""
ABOUT_ACCOUNTS: tuple[RefusalKind, ...] = ("credit", "key", "model", "filtered", "too_long")
"""Refusals that no other form of the request mends."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a request: the name of its limit, whether it has a temperature, its format."""

    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    response_format: ResponseFormat = "json_schema"

    def body(
        self, settings: EndpointSettings, model: str, text: str, schema: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The body of a request for one chat completion."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            self.limit: settings.answer_tokens,
        }
        if self.temperature and settings.temperature is not None:
            body["temperature"] = settings.temperature
        if self.response_format == "json_schema":
            json_schema = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        elif self.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return body


def first_dialect(settings: EndpointSettings) -> Dialect:
    """The strictest form that the settings ask for."""
    return Dialect(
        temperature=settings.temperature is not None,
        response_format=None if settings.output == "text" else "json_schema",
    )


def weaker_dialect(
    dialect: Dialect, refused: RefusedError, settings: EndpointSettings
) -> Dialect | None:
    """The form to try after a refusal; None where none would help."""
    kind = refused.kind
    if refused.status not in REFUSES_PARAMETERS or kind in ABOUT_ACCOUNTS:
        return None
    if kind == "limit_name" and dialect.limit == "max_tokens":
        return replace(dialect, limit="max_completion_tokens")
    if kind == "temperature":
        return replace(dialect, temperature=False) if dialect.temperature else None
    if kind in ("limit_too_low", "limit_too_high"):
        return None
    if dialect.response_format is None or settings.output != "auto":
        return None
    names_objects = "json_object" in refused.message or "json_schema" in refused.message
    if dialect.response_format == "json_schema" and kind == "schema" and names_objects:
        return replace(dialect, response_format="json_object")
    return replace(dialect, response_format=None)


def dialect_warnings(before: Dialect, after: Dialect, refused: RefusedError) -> list[str]:
    """What a weaker form changes in the verdicts."""
    reason = f"(status {refused.status}: {refused.message})"
    warnings = []
    if after.response_format != before.response_format:
        instead = "as JSON of any form" if after.response_format else "from text"
        warnings.append(f"takes no JSON schema {reason}; verdicts are read {instead}.")
    if after.temperature != before.temperature:
        warnings.append(
            f"takes no temperature {reason}: its own is used, so a verdict may differ from one "
            f"request to the next. Set the judge's temperature to null to say so."
        )
    return warnings


def refusal_advice(refused: RefusedError, settings: EndpointSettings, model: str) -> str:
    """The remedy for a refusal, in the judge's settings."""
    limit = f"answer_tokens={settings.answer_tokens}"
    advice: dict[RefusalKind, str] = {
        "too_long": f"Shorten what is judged (max_new_tokens of the responses), lower the judge's "
        f"{limit}, or serve it with a longer context.",
        "limit_too_low": f"Raise the judge's {limit}, or use a model that reasons less.",
        "limit_too_high": f"Lower the judge's {limit} to what the model can write.",
        "limit_name": "Neither max_tokens nor max_completion_tokens is taken. Is base_url the "
        "address of a chat model?",
        "temperature": "Set the judge's temperature=null, or to a value that the server takes.",
        "filtered": "A content filter refuses these texts: use another judge for them, or leave "
        "such prompts out.",
        "credit": "The account has nothing left to pay with: add credit, then run the same command "
        "again. Earlier answers are cached.",
        "key": f"Check the judge's base_url, model ({model!r}) and api_key_env.",
        "model": f"Check the judge's base_url, model ({model!r}) and api_key_env.",
        "schema": "Set the judge's output=text, or auto, which finds out what the server takes.",
        "parameter": "The server does not take a parameter of the request. Check that base_url is "
        "an OpenAI-compatible server, and try the judge's output=text and temperature=null.",
        "other": f"Check the judge's base_url, model ({model!r}) and api_key_env.",
    }
    return advice[refused.kind]
