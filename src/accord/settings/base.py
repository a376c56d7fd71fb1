"""The base class of all settings, and the marks that the annotation of a setting may carry.

A mark stands in the annotation of a field, `Annotated[str, InputPath]`, and belongs to this field
alone: a subclass that declares the field again repeats its marks (a test compares them).
`accord.settings.identity` reads the marks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.fields import FieldInfo

# Text that keeps the white space at both ends.
Verbatim = Annotated[str, StringConstraints(strip_whitespace=False, min_length=1)]


class InputPath:
    """Marks a file, folder or hub name that a stage reads.

    A finished stage runs again when the content of the file or folder changes. Of a text that is
    no path on this machine (a hub name, a server's name for a model) only the text counts.
    """


class InputCode(InputPath):
    """Marks `module:name` or `file.py:name`: the file of the code is what the stage reads."""


class PathByName:
    """Marks a path of which only the text counts: the stage does not depend on the content."""


class NotIdentity:
    """Marks a setting that does not change the result: where it is written, how often a checkpoint
    is saved, how a server is reached."""


class UnlessDefault:
    """Marks a setting that is newer than runs whose identity must not change: it belongs to the
    identity unless it has its default, which is how earlier versions worked."""


class MayGrow(NotIdentity):
    """Marks a count that may be raised after a stage is finished: the stage then resumes."""


@dataclass(frozen=True, slots=True)
class SettingsTable:
    """Marks a plain table that holds settings of the class that its `key` names in `classes`."""

    key: str
    classes: Mapping[str, type[Settings]]


def has_mark(field: FieldInfo | None, mark: type) -> bool:
    """Whether the field's annotation carries `mark` or a mark derived from it."""
    marks = () if field is None else field.metadata
    return any(isinstance(each, type) and issubclass(each, mark) for each in marks)


class Settings(BaseModel):
    """Frozen settings; an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        str_strip_whitespace=True,
        allow_inf_nan=False,
    )

    REMOVED: ClassVar[Mapping[str, Any]] = {}
    """Settings of earlier versions that had no effect, with their defaults. A recipe that gives one
    is refused; the identity of a stage still includes the default, so that a stage which an earlier
    version finished is not run again."""

    @classmethod
    def conditional_identity(cls, values: Mapping[str, Any]) -> frozenset[str]:
        """The keys marked NotIdentity that do belong to the identity when the settings hold
        `values` (plain values, as in stage.json)."""
        return frozenset()

    def changed(self, *keys: str) -> str | None:
        """The first of `keys` whose value is not its default, or None.

        The comparison is by value and not by whether a key was written, because the settings that
        a run has saved contain all keys.
        """
        fields = type(self).model_fields
        for key in keys:
            default = fields[key].get_default(call_default_factory=True, validated_data={})
            if getattr(self, key) != default:
                return key
        return None
