"""Digests of what decides a model's log-probs: its weights and configuration, and token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch

from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup

_ABOUT_FILES = ("_name_or_path", "transformers_version", "architectures", "dtype")


def weights_digest(lm: LanguageModel) -> str:
    """sha256 (hex) of a model's parameters and configuration; of a peft model's, the base alone."""
    digest = hashlib.sha256()
    config = {k: v for k, v in lm.inner.config.to_dict().items() if k not in _ABOUT_FILES}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in sorted(lm.inner.named_parameters()):
        if lm.is_peft and parameter.requires_grad:
            continue
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        plain = parameter.detach().contiguous().cpu().view(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def rows_digest(groups: Sequence[PromptGroup]) -> str:
    """sha256 (hex) of the groups' prompts and responses as token ids, in order."""
    digest = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.responses):
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(np.asarray(part, dtype=np.int64).data)
        for mask in group.learned:  # log-probs are those of learned tokens alone
            digest.update(np.asarray(mask, dtype=np.bool_).data)
        digest.update(b"|")
    return digest.hexdigest()
