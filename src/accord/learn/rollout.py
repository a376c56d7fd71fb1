"""Episodes: sample from the policy, score, and measure under policy, reference and critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accord.compare.rewards import Reward
from accord.learn.reference import batches_of
from accord.lm.forward import response_logps, response_logps_and_entropy, token_values
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.records import Prompt, PromptOnly
from accord.respond.protocol import Sample, Sampler, SamplingSettings
from accord.respond.text import response_text


@dataclass(frozen=True, slots=True)
class Episodes:
    """E answered prompts, and on each response token (E, T), masked: the log-probs under the
    policy that sampled them and under the reference, the critic's values, the entropy.

    scores (E,) are the reward's; finished (E,) says which responses ended with EOS.
    """

    groups: tuple[PromptGroup, ...]
    texts: tuple[str, ...]
    mask: Tensor
    old_logps: Tensor
    ref_logps: Tensor
    values: Tensor
    entropy: Tensor
    scores: Tensor
    finished: Tensor

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)


def grid_mask(lengths: Sequence[int]) -> Tensor:
    """(E, T) bools: True on the first lengths[e] cells of row e."""
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def to_grid(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of response tokens (R,), in order of response and token, on the grid (E, T)."""
    grid = torch.zeros(mask.shape, dtype=flat.dtype)
    grid[mask] = flat.cpu()
    return grid


def answer(
    policy: LanguageModel,
    sampler: Sampler,
    prompts: Sequence[tuple[int, ...]],
    records: Sequence[PromptOnly],
    settings: SamplingSettings,
    *,
    seed: int,
    streams: Sequence[int],
) -> tuple[list[PromptGroup], list[str], list[bool]]:
    """One response to each prompt: token groups, texts without special tokens, and who ended."""
    samples = [own[0] for own in sampler(prompts, settings, seed=seed, streams=streams)]
    groups = [
        PromptGroup(p, (s.tokens,), (0,), source=r.source)
        for p, s, r in zip(prompts, samples, records, strict=True)
    ]
    texts = [sample_text(s, policy) for s in samples]
    return groups, texts, [s.finished for s in samples]


def sample_text(sample: Sample, lm: LanguageModel) -> str:
    """A response as text, without its EOS or stop string; blanks at its ends are its own."""
    return response_text(sample, lm.tokenizer)


@torch.no_grad()
def measure(
    policy: LanguageModel,
    reference: LanguageModel | None,
    critic: LanguageModel,
    answered: tuple[list[PromptGroup], list[str], list[bool]],
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    temperature: float,
    batch_size: int,
) -> Episodes:
    """Episodes from answered prompts. Without a reference model it is the policy's base.

    Log-probs are recomputed here, by the passes that training uses, never taken from the sampler.
    """
    groups, texts, finished = answered
    old, entropy = _two(
        groups,
        batch_size,
        policy,
        lambda b: response_logps_and_entropy(policy, b, temperature=temperature),
    )
    if reference is None:
        with policy.as_reference():
            ref = _each(groups, batch_size, policy, temperature)
    else:
        ref = _each(groups, batch_size, reference, temperature)
    values = torch.cat([token_values(critic, b).cpu() for b in _packed(groups, batch_size, critic)])
    mask = grid_mask([len(g.responses[0]) for g in groups])
    return Episodes(
        groups=tuple(groups),
        texts=tuple(texts),
        mask=mask,
        old_logps=to_grid(old, mask),
        ref_logps=to_grid(ref, mask),
        values=to_grid(values, mask),
        entropy=to_grid(entropy, mask),
        scores=torch.tensor(reward(prompts, texts, finished)),
        finished=torch.tensor(finished),
    )


def _packed(groups: Sequence[PromptGroup], size: int, lm: LanguageModel) -> list[PackedBatch]:
    return [pack(groups[r.start : r.stop], lm.device) for r in batches_of(len(groups), size)]


def _two(
    groups: Sequence[PromptGroup],
    size: int,
    lm: LanguageModel,
    read: Callable[[PackedBatch], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    found = [read(batch) for batch in _packed(groups, size, lm)]
    return torch.cat([f[0].cpu() for f in found]), torch.cat([f[1].cpu() for f in found])


def _each(
    groups: Sequence[PromptGroup], size: int, lm: LanguageModel, temperature: float
) -> Tensor:
    return torch.cat(
        [response_logps(lm, b, temperature=temperature).cpu() for b in _packed(groups, size, lm)]
    )
