"""Requests to a continuous batch of a toy, and what each gets alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

from accord.lm.model import LanguageModel
from accord.respond.local.continuous import ContinuousBatch, LocalRequest, Output
from accord.respond.local.decode_batch import DecodeBatch
from accord.respond.local.sampler import LocalSampler
from accord.respond.local.separate_batch import SeparateBatch
from accord.respond.protocol import SamplingSettings
from accord.respond.text import response_text
from tests.lm.models import causal
from tests.lm.toys import toy_tokenizer
from tests.respond.local_sampling import EOS, PROMPTS, make_lm

SETTINGS = (
    SamplingSettings(max_new_tokens=12, temperature=0),
    SamplingSettings(num_responses=3, max_new_tokens=9, temperature=1.3, top_p=0.9),
    SamplingSettings(max_new_tokens=20, temperature=0.7, top_k=5),
    SamplingSettings(num_responses=2, max_new_tokens=5, min_p=0.1),
)


def toy(name: str) -> LanguageModel:
    """A toy model with a tokenizer; EOS is a likely token."""
    lm = make_lm(causal(name))
    lm.tokenizer = toy_tokenizer()
    lm.model.generation_config.eos_token_id = EOS
    return lm


def make_batch(lm: LanguageModel, **options: Any) -> ContinuousBatch:
    rows = DecodeBatch(lm, lm.head) if lm.shares_prefixes else SeparateBatch(lm)
    return ContinuousBatch(lm, rows, **{"max_rows": 8, **options})


def requests(top_logprobs: int | None = None) -> list[LocalRequest]:
    return [
        LocalRequest(i, prompt, settings, seed=100 + i, top_logprobs=top_logprobs)
        for i, (prompt, settings) in enumerate(zip(PROMPTS, SETTINGS, strict=True))
    ]


def alone(lm: LanguageModel, request: LocalRequest) -> list[tuple[str, str]]:
    """What `LocalSampler` gives a request: the text and why it ended, of each response."""
    ((*samples,),) = LocalSampler(lm)(
        [request.prompt], request.settings, seed=request.seed, streams=[0]
    )
    return [
        (response_text(s, lm.tokenizer, request.prompt), "stop" if s.finished else "length")
        for s in samples
    ]


def collect(outputs: Iterable[Output]) -> dict[Any, list[tuple[str, str | None]]]:
    texts: dict[Any, dict[int, list[Output]]] = defaultdict(lambda: defaultdict(list))
    for output in outputs:
        assert output.error is None
        texts[output.key][output.index].append(output)
    return {
        key: [
            ("".join(o.text for o in by_index[k]), by_index[k][-1].finish)
            for k in range(len(by_index))
        ]
        for key, by_index in texts.items()
    }


@torch.no_grad()
def run(batch: ContinuousBatch, new: list[LocalRequest], every: int = 1) -> list[Output]:
    """All outputs, where a request comes at every so many steps."""
    pending, outputs, step = list(new), [], 0
    while pending or batch.rows or batch.waiting:
        if pending and step % every == 0:
            batch.submit(pending.pop(0))
        outputs += batch.step()
        step += 1
    return outputs
