"""Language models: load and save, text to tokens, packing, and the shared-prefix forward pass.

For a training loop in plain torch: `load_causal` loads a model, `encode` turns records into prompt
groups, `pack` makes a batch of them, `response_logps` gives its log-probs with gradient, and
`save_model` saves the model. Losses are in `accord.objectives`. Names are imported on first use.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accord.lm.forward import response_logps
    from accord.lm.load import load_causal, load_scalar, save_model
    from accord.lm.model import LanguageModel
    from accord.lm.packing import PackedBatch, PromptGroup, pack
    from accord.lm.tokens.encode import Limits, encode

_EXPORTS = {
    "forward": ("response_logps",),
    "load": ("load_causal", "load_scalar", "save_model"),
    "model": ("LanguageModel",),
    "packing": ("PackedBatch", "PromptGroup", "pack"),
    "tokens.encode": ("Limits", "encode"),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "LanguageModel",
    "Limits",
    "PackedBatch",
    "PromptGroup",
    "encode",
    "load_causal",
    "load_scalar",
    "pack",
    "response_logps",
    "save_model",
]

# Where bitsandbytes is installed, peft imports it, and it warns of kernels that it could download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

if not TYPE_CHECKING:  # for type checkers unknown names stay errors

    def __getattr__(name: str) -> Any:
        """Import a name on first use (PEP 562); the package alone loads no torch."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
