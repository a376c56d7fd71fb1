"""The model card: what was trained, on what, from which model, and in which form it is saved."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import yaml

from accord.hub_names import means_hub
from accord.learn.loop.best import FILE as BEST_FILE
from accord.lm.adapters.stack import saved_form
from accord.lm.load import base_and_adapter
from accord.lm.model import LanguageModel
from accord.settings.base import Settings

_SAVED = {
    "full": "It is a full model, which loads in transformers.",
    "adapter": "It is a LoRA adapter on `{base}`, which loads in peft.",
    "stacked": "It is a LoRA adapter on `{base}`, which loads in peft: the sum of the adapter "
    "`{model}` and of what was trained on top of it.",
}
_QUANTISED = (
    "It was trained on that base in 4 bits (NF4): on the base in full precision, or merged into "
    "it, its numbers differ slightly from those in training."
)
_HEADS = {True: "text-classification", False: "text-generation"}


def model_card(lm: LanguageModel, method: str, settings: Any) -> str:
    """The card of a model that `save_model` is about to save, in the hub's form.

    Its metadata says only what is known: the base model, whether the model is an adapter on it,
    the data sets. The licence is that of the base model's card, where there is one.
    """
    form = saved_form(lm)
    base = lm.name if form == "adapter" else _base(lm, settings.model)
    relation = "finetune" if form == "full" else "adapter"
    metadata: dict[str, Any] = {
        "library_name": "transformers" if form == "full" else "peft",
        **({"base_model": base, "base_model_relation": relation} if base else {}),
        "pipeline_tag": _HEADS[lm.scalar],
        "tags": ["accord", method, *(["full"] if form == "full" else ["lora"])],
    }
    datasets = [name for name in (settings.dataset, settings.eval_dataset) if _is_on_hub(name)]
    if datasets:
        metadata["datasets"] = list(dict.fromkeys(datasets))
    licence = base_licence(base) if base else None
    if licence:
        metadata["license"] = licence
    saved = _SAVED[form].format(base=base, model=settings.model)
    if lm.is_quantised:
        saved += " " + _QUANTISED
    return card_text(
        metadata,
        Path(settings.output_dir).name,
        f"Trained with `accord train {method}` from `{settings.model}` on `{settings.dataset}`. "
        f"{saved}{_best(settings)}",
        settings,
    )


def merged_card(
    adapter: Path, output_dir: Path
) -> Callable[[LanguageModel, str, Mapping[str, Any]], str]:
    """The card of an adapter merged into its base, as a function of the model, the base's name and
    the adapter's configuration."""

    def card(lm: LanguageModel, base: str, config: Mapping[str, Any]) -> str:
        metadata: dict[str, Any] = {
            "library_name": "transformers",
            "base_model": base,
            "base_model_relation": "finetune",
            "pipeline_tag": _HEADS[lm.scalar],
            "tags": ["accord", "merged"],
        }
        licence = base_licence(str(adapter)) or base_licence(base)
        if licence:
            metadata["license"] = licence
        paragraph = (
            f"The LoRA adapter `{adapter}` (rank {config.get('r')}) merged into `{base}` with "
            f"`accord merge`. It is a full model, which loads in transformers."
        )
        return card_text(metadata, output_dir.name, paragraph, None)

    return card


def card_text(
    metadata: Mapping[str, Any], title: str, paragraph: str, settings: Settings | None
) -> str:
    """A card from its metadata, a title, a paragraph, and the settings as a table."""
    front = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    lines = ["---", front.rstrip(), "---", "", f"# {title}", "", paragraph, ""]
    if settings is not None:
        lines += ["| setting | value |", "|---|---|"]
        lines += [
            f"| `{name}` | `{_cell(value)}` |"
            for name, value in settings.model_dump(mode="json").items()
            if value is not None and value != []
        ]
        lines.append("")
    versions = {"torch": torch, "transformers": transformers, "peft": peft}
    shown = ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
    return "\n".join([*lines, f"Python {sys.version.split()[0]}, {shown}.", ""])


def base_licence(base: str) -> str | None:
    """The licence in the card of a base model's folder; None where none is stated."""
    path = Path(base) / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
        metadata = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    licence = metadata.get("license") if isinstance(metadata, dict) else None
    return licence if isinstance(licence, str) else None


def _base(lm: LanguageModel, model: str) -> str | None:
    """The full model that a run started from: of an adapter its base; None for one in memory that
    no folder or hub name stands for."""
    for name in (model, lm.name):
        if Path(name).is_dir():
            return base_and_adapter(name)[0]
        if _is_on_hub(name):
            return name
    return None


def _is_on_hub(name: Any) -> bool:
    return isinstance(name, str) and not Path(name).exists() and means_hub(name)


def _best(settings: Any) -> str:
    """A sentence about the step whose weights are saved, if it is the best and not the last."""
    path = Path(settings.output_dir) / BEST_FILE
    if not settings.load_best_model_at_end or not path.is_file():
        return ""
    best = json.loads(path.read_text(encoding="utf-8"))
    return f" The weights are those of step {best['step']}, where {best['metric']} was best."


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
