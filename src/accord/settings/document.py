"""docs/settings.md, generated from the settings' classes.

Regenerate it with `python -m accord.settings.document > docs/settings.md`; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from accord.settings.advise import AdviseSettings
from accord.settings.annotate import AnnotateSettings
from accord.settings.base import Settings
from accord.settings.label import LabelSettings
from accord.settings.reading.aliases import RENAMED
from accord.settings.reading.allowed import allowed, default_text, kind_of, table_of, tables_of
from accord.settings.recipe import METHOD_SETTINGS, STAGE_SETTINGS
from accord.settings.rewards import RewardSource, SourceSettings
from accord.settings.training import TrainSettings

_INTRODUCTION = """\
# Settings

<!-- Written by `python -m accord.settings.document > docs/settings.md`; do not edit by hand. -->

A stage's settings are given in a YAML file (`--config`), in a recipe, or on the command line as
`key=value`; the command line wins. A value is read as YAML: `1e-5` is a number, `off` is false,
and text that looks like a number or a boolean goes in quotes. A key with a dot addresses a value in
a table (`lora.r=8`) or a list (`contestants.0.name=base`). An unknown key, a key given twice and a
value of the wrong type are errors: nothing is converted silently. A path may begin with `~/`.

## Recipes

| key | meaning | default |
|---|---|---|
| `output_dir` | Folder of the whole run; each stage writes to a folder in it. | `runs/` and the \
recipe's name |
| `seed` | Seed of every stage that has a seed and does not set its own. | 0 |
| `title` | Title of the run. | absent |
| `stages` | The stages in order: each a table with `stage` (its kind), `method` (where the kind \
is `train`), a `name` if the default (the method or the kind) is already used, and the settings \
below. | required |

`$NAME/…` in a stage's settings is the folder of the earlier stage called NAME, and `$run` the
run's folder. On the command line `NAME.key=value` sets a key of the stage called NAME.
"""


def settings_page() -> str:
    """The page in Markdown: every kind of stage and every method, with each key."""
    return "\n".join(
        [
            _INTRODUCTION,
            *_methods(),
            *_stages(),
            *_label(),
            *_annotate(),
            *_advise(),
            *_sources(),
            *_aliases(),
        ]
    )


def _methods() -> Iterator[str]:
    yield "## train\n"
    yield f"{_description(TrainSettings)} In a recipe: `stage: train` and `method: NAME`.\n"
    yield from _table(TrainSettings.model_fields)
    for method, settings_class in METHOD_SETTINGS.items():
        yield f"### train {method}\n"
        yield f"{_description(settings_class)}\n"
        shared = TrainSettings.model_fields
        has_new_keys = any(key not in shared for key in settings_class.model_fields)
        difference = (
            "and these, or with these defaults:" if has_new_keys else "with these defaults:"
        )
        yield f"All keys of `train`, {difference}\n"
        yield from _table(
            {
                key: field
                for key, field in settings_class.model_fields.items()
                if key not in shared or _row(key, field) != _row(key, shared[key])
            }
        )


def _stages() -> Iterator[str]:
    for kind, settings_class in STAGE_SETTINGS.items():
        if isinstance(settings_class, dict):
            continue
        yield f"## {kind}\n"
        yield f"{_description(settings_class)}\n"
        yield from _table(settings_class.model_fields)


def _annotate() -> Iterator[str]:
    yield "## annotate\n"
    yield f"{_description(AnnotateSettings)} It is no stage of a recipe.\n"
    yield from _table(AnnotateSettings.model_fields)


def _advise() -> Iterator[str]:
    yield "## advise\n"
    yield f"{_description(AdviseSettings)} It is no stage of a recipe.\n"
    yield from _table(AdviseSettings.model_fields)


def _label() -> Iterator[str]:
    yield "## label\n"
    yield f"{_description(LabelSettings)} It is no stage of a recipe.\n"
    judges = "judges"
    yield from _table({key: f for key, f in LabelSettings.model_fields.items() if key != judges})
    yield (
        f"`{judges}` is a list of tables with the keys of `judge` of "
        f"[compare](#compare), of the kinds `endpoint` and `local`.\n"
    )


def _sources() -> Iterator[str]:
    yield "## Sources of a reward\n"
    yield (
        "`rewards` (of online methods and `select`) is a list of sources; the score is the sum of "
        "their scores,\neach times its weight. Every source has these keys and those of its kind.\n"
    )
    yield from _table(SourceSettings.model_fields)
    for table in tables_of(RewardSource):
        yield f"### kind: {kind_of(table)}\n"
        yield f"{_description(table)}\n"
        shared = SourceSettings.model_fields
        yield from _table({key: f for key, f in table.model_fields.items() if key not in shared})


def _aliases() -> Iterator[str]:
    yield "## Other names that are accepted\n"
    yield (
        "These names of Hugging Face's tools mean exactly the same. The names of other tools "
        "(TRL, Axolotl,\nLLaMA-Factory, torchtune, OpenRLHF, verl, Unsloth) are refused with the "
        "name to use here.\n"
    )
    yield "| name | accord's key |\n|---|---|"
    for alias, path in RENAMED.items():
        yield f"| `{alias}` | `{'.'.join(map(str, path))}` |"
    yield "| `use_peft` | `lora`: `on` or `off` |"


def _description(settings_class: type[Settings]) -> str:
    return " ".join((settings_class.__doc__ or "").split())


def _table(fields: dict[str, FieldInfo], prefix: str = "") -> Iterator[str]:
    yield "| key | meaning | allowed values | default |\n|---|---|---|---|"
    yield from _rows(fields, prefix)
    yield ""


def _rows(fields: dict[str, FieldInfo], prefix: str = "") -> Iterator[str]:
    for key, field in fields.items():
        yield _row(prefix + key, field)
        table = table_of(field.annotation)
        if table:
            inner = (
                f"{prefix}{key}." if "list" not in str(field.annotation) else f"{prefix}{key}.N."
            )
            yield from _rows(table.model_fields, inner)


def _row(key: str, field: FieldInfo) -> str:
    default = default_text(field)
    shown = "required" if default is None else default
    cells = (f"`{key}`", field.description or "", allowed(field), shown)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
