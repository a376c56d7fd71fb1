"""accord brings a language model into accord with what people prefer, and proves that it did.

From Python: `train` and `steps`, `sample` and `score`, `compare` and `rate`, `check_judge`,
`label`, `probe`, `audit`, `redteam`, `load_model`. What they need is imported when they are first
used, so that `import accord` is light. docs/python.md shows each.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from accord.api.answers import Answers, PromptAnswers, sample, score
    from accord.api.audits import audit, probe, redteam
    from accord.api.comparisons import Battles, compare, rate
    from accord.api.judges import check as check_judge
    from accord.api.judges import label
    from accord.api.models import load_model
    from accord.api.run import Run, Steps
    from accord.api.train import steps, train
    from accord.lm.model import LanguageModel
    from accord.settings.training import LoraSettings as Lora

_EXPORTS = {
    "Answers": "accord.api.answers",
    "Battles": "accord.api.comparisons",
    "LanguageModel": "accord.lm.model",
    "Lora": "accord.settings.training",
    "PromptAnswers": "accord.api.answers",
    "Run": "accord.api.run",
    "Steps": "accord.api.run",
    "check_judge": "accord.api.judges",
    "audit": "accord.api.audits",
    "label": "accord.api.judges",
    "load_model": "accord.api.models",
    "probe": "accord.api.audits",
    "rate": "accord.api.comparisons",
    "redteam": "accord.api.audits",
    "sample": "accord.api.answers",
    "score": "accord.api.answers",
    "steps": "accord.api.train",
    "train": "accord.api.train",
}
_PACKAGES = ("compare", "lm", "objectives")  # `accord.lm.pack` works after `import accord`
_NAMES = {
    "Lora": "LoraSettings",
    "check_judge": "check",
}  # where the name in its module is another one

__all__ = [
    "Answers",
    "Battles",
    "LanguageModel",
    "Lora",
    "PromptAnswers",
    "Run",
    "Steps",
    "__version__",
    "audit",
    "check_judge",
    "compare",
    "label",
    "load_model",
    "probe",
    "rate",
    "redteam",
    "sample",
    "score",
    "steps",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), _NAMES.get(name, name))
        globals()[name] = value
        return value
    if name in _PACKAGES:
        return importlib.import_module(f"accord.{name}")
    raise AttributeError(f"module 'accord' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})


class _CompareModule(ModuleType):
    """`accord.compare` is a package, and callable: `accord.compare(answers_a, answers_b, …)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("accord.api.comparisons").compare(*args, **kwargs)


def make_compare_callable(name: str) -> None:
    """Called by the package `accord.compare` when it is imported, however that happens."""
    sys.modules[name].__class__ = _CompareModule
