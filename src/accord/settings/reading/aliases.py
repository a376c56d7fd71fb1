"""Names of the Hugging Face world that mean exactly what a key of accord's means.

They are accepted; giving both names is an error, unless one stands on the command line and the
other in a file: the command line wins. Names that mean something a little different are not
accepted but explained: see `foreign`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accord.settings.base import Settings
from accord.settings.reading.allowed import may_be_absent, table_of
from accord.settings.reading.located import COMMAND_LINE, KeyPath, LocatedMapping

RENAMED: dict[str, KeyPath] = {
    "model_name_or_path": ("model",),
    "dataset_name": ("dataset",),
    "resume_from_checkpoint": ("resume",),
    "max_seq_length": ("max_length",),
    "kl_coef": ("beta",),
    "lam": ("gae_lambda",),
    "response_length": ("max_new_tokens",),
    "max_completion_length": ("max_new_tokens",),
    "bf16": ("precision",),
    "lora_r": ("lora", "r"),
    "lora_alpha": ("lora", "alpha"),
    "lora_target_modules": ("lora", "target_modules"),
}
"""The other name, and the path of accord's key. `use_peft` switches `lora` as a whole."""

_CONVERTED: dict[str, Callable[[Any], Any]] = {
    "bf16": lambda on: "bf16" if on else "fp32",
    "resume_from_checkpoint": lambda on: on,
}
"""Aliases whose value must be true or false, and what accord's key then holds."""

_MEANT: dict[str, str] = {
    "bf16": "For another precision write `precision: fp32` or `precision: bf16`.",
    "resume_from_checkpoint": (
        "accord goes on from the last checkpoint in `output_dir`: name the run's folder there."
    ),
}


def translate(
    settings_class: type[Settings], given: LocatedMapping
) -> tuple[LocatedMapping, list[str]]:
    """The settings under accord's names, and a sentence for each that can't be translated."""
    problems: list[str] = []
    given = _switch_tables(settings_class, given)
    given = _use_peft(settings_class, given, problems)
    for alias, target in RENAMED.items():
        if alias not in given.values or alias in settings_class.model_fields:
            continue
        if target[0] in settings_class.model_fields:
            given = _rename(given, alias, target, problems)
    return given, problems


def _switch_tables(settings_class: type[Settings], given: LocatedMapping) -> LocatedMapping:
    """`lora: off` is no table, `lora: on` is the table with its defaults."""
    for key, field in settings_class.model_fields.items():
        value = given.values.get(key)
        if (
            isinstance(value, bool)
            and table_of(field.annotation)
            and may_be_absent(field.annotation)
        ):
            given = given.with_value((key,), {} if value else None, given.source_of((key,)))
    return given


def _use_peft(
    settings_class: type[Settings], given: LocatedMapping, problems: list[str]
) -> LocatedMapping:
    if "use_peft" not in given.values or "lora" not in settings_class.model_fields:
        return given
    path: KeyPath = ("use_peft",)
    on, source = given.values["use_peft"], given.source_of(path)
    name = given.named(path)
    rest = given.without(path)
    if not isinstance(on, bool):
        problems.append(f"`{name}` must be true or false, not {on!r} ({source}).")
    elif "lora" in given.values and (given.values["lora"] is not None) != on:
        problems.append(
            f"`{name}` is {str(on).lower()} ({source}), but `{given.named(('lora',))}` says the "
            f"opposite ({given.source_of(('lora',))}). Keep one of the two."
        )
    elif "lora" not in given.values:
        return rest.with_value(("lora",), {} if on else None, source)
    return rest


def _rename(
    given: LocatedMapping, alias: str, target: KeyPath, problems: list[str]
) -> LocatedMapping:
    value, source = given.values[alias], given.source_of((alias,))
    name, ours = given.named((alias,)), given.named(target)
    rest = given.without((alias,))
    if alias in _CONVERTED:
        if not isinstance(value, bool):
            problems.append(
                f"`{name}` must be true or false, not {value!r} ({source}). {_MEANT[alias]}"
            )
            return rest
        value = _CONVERTED[alias](value)
    table: Any = given.values
    for part in target[:-1]:
        table = table.get(part) if isinstance(table, dict) else None
    if len(target) > 1 and not isinstance(table, dict):
        problems.append(
            f"`{name}` ({source}) does nothing unless adapters are on. "
            f"Write `{given.named(target[:-1])}: {{{target[-1]}: {value}}}`, or add "
            "`use_peft: true`."
        )
        return rest
    if target[-1] in table:
        other = given.source_of(target)
        if source == COMMAND_LINE != other:
            return rest.with_value(target, value, source)
        if not (other == COMMAND_LINE != source):
            problems.append(
                f"`{name}` ({source}) and `{ours}` ({other}) are the same setting. "
                "Keep one of the two."
            )
        return rest
    return rest.with_value(target, value, source)
