"""Libraries' own warnings stay off the screen: accord says what matters itself."""

from __future__ import annotations

import os
import sys
import warnings

_LIBRARIES = (
    "accelerate",
    "accord",
    "datasets",
    "huggingface_hub",
    "matplotlib",
    "multiprocess",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
_VARIABLES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # accord encodes row by row; a fork would warn
}


def quiet_libraries() -> None:
    """Show no warnings of libraries, nor their progress bars; a download from the hub still has
    one. A user's own `-W`, PYTHONWARNINGS and these variables win, and a user's own code may warn.

    To be called before the libraries are imported.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        modules = "|".join(_LIBRARIES)
        warnings.filterwarnings("ignore", module=rf"({modules})(\.|$)")
