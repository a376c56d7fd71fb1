"""Names of Hugging Face's tools with exactly the meaning of one of accord's keys.

They are accepted. Both names together are an error, unless one is given on the command line and the
other in a file: then the command line wins. Names with a slightly different meaning are refused
with an explanation: see `foreign`.
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
    "load_in_4bit": ("quantization",),
    "activation_offloading": ("activation_offload",),
    "lora_r": ("lora", "r"),
    "lora_alpha": ("lora", "alpha"),
    "lora_target_modules": ("lora", "target_modules"),
}
"""Aliases, and the paths of accord's keys. `use_peft` switches `lora` on or off as a whole."""

_CONVERTED: dict[str, Callable[[Any], Any]] = {
    "bf16": lambda on: "bf16" if on else "fp32",
    "load_in_4bit": lambda on: "nf4" if on else None,
    "resume_from_checkpoint": lambda on: on,
}
"""Aliases whose value must be true or false, and the conversion to the value of accord's key."""

_REMEDIES: dict[str, str] = {
    "load_in_4bit": "Write `quantization: nf4`, or leave it out.",
    "bf16": "For another precision write `precision: fp32` or `precision: bf16`.",
    "resume_from_checkpoint": (
        "accord resumes from the last checkpoint in `output_dir`: name the run's folder there."
    ),
}


def translate(
    settings_class: type[Settings], written: LocatedMapping
) -> tuple[LocatedMapping, list[str]]:
    """The settings with accord's keys, and a sentence for each that can't be translated."""
    problems: list[str] = []
    written = _expand_switches(settings_class, written)
    written = _translate_use_peft(settings_class, written, problems)
    for alias, target in RENAMED.items():
        if alias not in written.values or alias in settings_class.model_fields:
            continue
        if target[0] in settings_class.model_fields:
            written = _rename(written, alias, target, problems)
    return written, problems


def _expand_switches(settings_class: type[Settings], written: LocatedMapping) -> LocatedMapping:
    """Replace `lora: off` by null and `lora: on` by the table with its defaults."""
    for key, field in settings_class.model_fields.items():
        value = written.values.get(key)
        if (
            isinstance(value, bool)
            and table_of(field.annotation)
            and may_be_absent(field.annotation)
        ):
            written = written.with_value((key,), {} if value else None, written.source_of((key,)))
    return written


def _translate_use_peft(
    settings_class: type[Settings], written: LocatedMapping, problems: list[str]
) -> LocatedMapping:
    if "use_peft" not in written.values or "lora" not in settings_class.model_fields:
        return written
    path: KeyPath = ("use_peft",)
    on, source = written.values["use_peft"], written.source_of(path)
    name = written.key_name(path)
    rest = written.without(path)
    if not isinstance(on, bool):
        problems.append(f"`{name}` must be true or false, not {on!r} ({source}).")
    elif "lora" in written.values and (written.values["lora"] is not None) != on:
        problems.append(
            f"`{name}` is {str(on).lower()} ({source}), but `{written.key_name(('lora',))}` says "
            f"the opposite ({written.source_of(('lora',))}). Keep one of the two."
        )
    elif "lora" not in written.values:
        return rest.with_value(("lora",), {} if on else None, source)
    return rest


def _rename(
    written: LocatedMapping, alias: str, target: KeyPath, problems: list[str]
) -> LocatedMapping:
    """The settings with accord's key `target` in place of `alias`; problems are appended."""
    value, source = written.values[alias], written.source_of((alias,))
    name, accord_name = written.key_name((alias,)), written.key_name(target)
    rest = written.without((alias,))
    if alias in _CONVERTED:
        if not isinstance(value, bool):
            problems.append(
                f"`{name}` must be true or false, not {value!r} ({source}). {_REMEDIES[alias]}"
            )
            return rest
        value = _CONVERTED[alias](value)
    table: Any = written.values
    for part in target[:-1]:
        table = table.get(part) if isinstance(table, dict) else None
    if len(target) > 1 and not isinstance(table, dict):
        problems.append(
            f"`{name}` ({source}) does nothing unless adapters are on. "
            f"Write `{written.key_name(target[:-1])}: {{{target[-1]}: {value}}}`, or add "
            "`use_peft: true`."
        )
        return rest
    if target[-1] in table:
        target_source = written.source_of(target)
        if source == COMMAND_LINE != target_source:
            return rest.with_value(target, value, source)
        if not (target_source == COMMAND_LINE != source):
            problems.append(
                f"`{name}` ({source}) and `{accord_name}` ({target_source}) are the same setting. "
                "Keep one of the two."
            )
        return rest
    return rest.with_value(target, value, source)
