"""The base of all settings: frozen, no unknown keys, every key with a sentence of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

# Text whose blanks at both ends are its own.
Verbatim = Annotated[str, StringConstraints(strip_whitespace=False, min_length=1)]


class Settings(BaseModel):
    """Frozen settings; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        str_strip_whitespace=True,
        allow_inf_nan=False,
    )

    def changed(self, *keys: str) -> str | None:
        """The first of `keys` that does not hold its default, or None.

        Keys are told from their defaults by value, not by whether they were written: settings that
        a run has kept hold all of them.
        """
        fields = type(self).model_fields
        for key in keys:
            default = fields[key].get_default(call_default_factory=True, validated_data={})
            if getattr(self, key) != default:
                return key
        return None
