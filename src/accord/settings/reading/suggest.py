"""What to say of a key that does not exist: what it is called here, or what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from accord.settings.base import Settings
from accord.settings.reading.aliases import RENAMED
from accord.settings.reading.allowed import table_of
from accord.settings.reading.foreign import FOREIGN, FOREIGN_IN_LORA
from accord.settings.training import LoraSettings


def unknown_key(settings_class: type[Settings], key: str, *, where: str) -> str:
    """One or two sentences: the key's name here, the nearest key, or all keys."""
    fields = settings_class.model_fields
    known_abroad = FOREIGN_IN_LORA if settings_class is LoraSettings else FOREIGN
    if key in known_abroad:
        foreign = known_abroad[key]
        said = f"{foreign.tool}'s `{key}`"
        if not foreign.ours:
            return f"{said} has no counterpart here. {foreign.note}"
        taken = foreign.ours.partition(".")[0] in fields or foreign.ours == "method"
        not_taken = "" if taken else f", which {where} does not take"
        return f"{said} is `{foreign.ours}` here{not_taken}. {foreign.note}".strip()
    if key in RENAMED or key == "use_peft":
        ours = ".".join(str(p) for p in RENAMED.get(key, ("lora",)))
        return f"`{key}` is `{ours}` here, which {where} does not take."
    for outer, field in fields.items():
        table = table_of(field.annotation)
        if table and key in table.model_fields:
            return f"`{key}` belongs to `{outer}`: write `{outer}.{key}=…` or put it under it."
    near = nearest(key, fields)
    if near:
        return f"Did you mean `{near}`?"
    return f"The keys are {listed(fields)}."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is spelled most alike, if any is near; the first letter breaks ties."""
    known = list(known)
    spelled = word.lower().replace("-", "_")
    near = difflib.get_close_matches(spelled, known, n=3, cutoff=0.6)
    if near:
        return max(near, key=lambda other: (_likeness(spelled, other), other[:1] == spelled[:1]))
    longer = [name for name in known if len(word) > 2 and word in name.split("_")]
    return longer[0] if len(longer) == 1 else None


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def _likeness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, word).ratio()
