"""Silences transformers where accord reports by itself, and says in accord's words what matters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import logging as transformers_logging

log = logging.getLogger(__name__)

_MATTERS = {
    "incorrect regex pattern": "The tokenizer of %s splits text by a pattern that its maker has "
    "corrected since, so its tokens are not those that the model was trained on. Load it once with "
    "AutoTokenizer.from_pretrained(…, fix_mistral_regex=True), save it into the model's folder, "
    "and use that.",
    "not the same type as the class": "The tokenizer files of %s are of another class than the "
    "one they name, so texts may be split in another way than in its training. Save the right "
    "tokenizer into the model's folder.",
}
"""Parts of transformers' warnings that a user must know, and what accord says."""


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Show errors only, no progress bars: transformers warns of a new head, which is intended."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def in_own_words(name: str) -> Iterator[None]:
    """Show nothing of what transformers logs, but warn in accord's words of what matters.

    `name` is the model or tokenizer that is loaded.
    """
    texts: list[str] = []
    collect = logging.Handler()
    collect.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    with silence_transformers():
        transformers_logging.set_verbosity_warning()
        transformers_logging.disable_default_handler()
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(collect)
        try:
            yield
        finally:
            logger.removeHandler(collect)
            logger.propagate = propagate
            transformers_logging.enable_default_handler()
    for part, words in _MATTERS.items():
        if any(part in text for text in texts):
            log.warning(words, name)
