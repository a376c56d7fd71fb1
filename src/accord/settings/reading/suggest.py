"""What an error says about a key that does not exist: its name here, or the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from accord.settings.base import Settings
from accord.settings.reading.aliases import RENAMED
from accord.settings.reading.allowed import table_of
from accord.settings.reading.foreign import FOREIGN, FOREIGN_IN_LORA, FOREIGN_METHODS
from accord.settings.training import LoraSettings


def unknown_key(settings_class: type[Settings], key: str, *, where: str) -> str:
    """One or two sentences: the key's name here, the nearest key, or all keys."""
    fields = settings_class.model_fields
    if key in settings_class.REMOVED:
        return "It had no effect and is gone: leave it out."
    foreign_keys = FOREIGN_IN_LORA if settings_class is LoraSettings else FOREIGN
    if key in foreign_keys:
        foreign = foreign_keys[key]
        subject = f"{foreign.tool}'s `{key}`"
        if not foreign.accord_key:
            return f"{subject} has no counterpart here. {foreign.note}"
        known = foreign.accord_key.partition(".")[0] in fields or foreign.accord_key == "method"
        exception = "" if known else f", which {where} does not take"
        return f"{subject} is `{foreign.accord_key}` here{exception}. {foreign.note}".strip()
    if key in RENAMED or key == "use_peft":
        accord_key = ".".join(str(p) for p in RENAMED.get(key, ("lora",)))
        return f"`{key}` is `{accord_key}` here, which {where} does not take."
    for outer, field in fields.items():
        table = table_of(field.annotation)
        if table and key in table.model_fields:
            return f"`{key}` belongs to `{outer}`: write `{outer}.{key}=…` or put it under it."
    return did_you_mean(key, fields).strip() or f"The keys are {listed(fields)}."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, after a space; empty if none is near."""
    near = nearest(word, known)
    return f" Did you mean `{near}`?" if near else ""


def suggest_method(method: str, methods: Iterable[str]) -> str:
    """A sentence that says what a method of another tool is here, or names the nearest one, after
    a space; empty if there is none."""
    name = method.lower().replace("-", "_")
    if name in FOREIGN_METHODS:
        return f" It is {FOREIGN_METHODS[name]} here."
    return did_you_mean(method, methods)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word with the most similar spelling, if any is near; on a tie, one with the same
    first letter."""
    known = list(known)
    normalised = word.lower().replace("-", "_")
    near = difflib.get_close_matches(normalised, known, n=3, cutoff=0.6)
    if near:
        return max(near, key=lambda k: (_similarity(normalised, k), k[:1] == normalised[:1]))
    longer = [name for name in known if len(word) > 2 and word in name.split("_")]
    return longer[0] if len(longer) == 1 else None


def listed(names: Iterable[str]) -> str:
    """Names in backticks, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def _similarity(word: str, known: str) -> float:
    return difflib.SequenceMatcher(None, known, word).ratio()
