"""What transformers alone computes of a response, one unpadded row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accord.lm.packing import PromptGroup


def plain_logp(model: Any, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """A response's log-prob, with gradient, from the model's logits."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logps.gather(1, torch.tensor(response)[:, None]).sum()


def plain_scores(model: Any, group: PromptGroup) -> Tensor:
    """The scores of a group's K responses, (K, heads)."""
    rows = [torch.tensor([[*group.prompt, *response]]) for response in group.responses]
    return torch.cat([model(input_ids=row).logits for row in rows])
