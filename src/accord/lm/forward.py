"""The one forward pass: hidden states of a packed batch, and every read-out of them.

`response_stats` is the token read-out that all methods use; `response_scores`,
`response_head_scores` and `token_values` read a scalar head; `response_kl` compares two models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from accord.lm.attention.reuse import CapturedPrefix, ReusedPrefix, plan_extra_responses
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch
from accord.objectives.logprobs import token_kl, token_logps, token_stats

T = TypeVar("T")
Stat = Literal["entropy", "correct", "log_squares"]


@dataclass(frozen=True, slots=True)
class ResponseStats:
    """What one forward pass gives of the R response tokens of a batch, each float32 (R,).

    logps: log p of the token, with gradient. entropy: of the next-token distribution, in nats.
    correct: 1.0 where the distribution's mode is the token. log_squares: log Σ p². values: a
    critic's value before the token. extra_logps: log-probs of the tokens of `extra_responses`.
    What was not requested is None.
    """

    logps: Tensor
    entropy: Tensor | None = None
    correct: Tensor | None = None
    log_squares: Tensor | None = None
    values: Tensor | None = None
    extra_logps: Tensor | None = None


def response_stats(
    lm: LanguageModel,
    batch: PackedBatch,
    *,
    want: Collection[Stat] = (),
    temperature: float = 1.0,
    entropy_grad: bool = False,
    critic: LanguageModel | None = None,
    policy_grad: bool = True,
    extra_responses: Sequence[tuple[int, ...]] = (),
) -> ResponseStats:
    """Log-probs of a batch's response tokens, with more statistics of the same pass on request.

    `want` adds statistics without gradient; with `entropy_grad` the entropy has one, for an
    entropy bonus. `critic` is a view that shares the policy's hidden states
    (`share_forward_pass`); with `policy_grad` False only its head gets a gradient.
    `extra_responses` is one more response to each group's prompt (CPU, models that share
    prefixes): it reuses the prompts' keys and values, and has no gradient.
    """
    options = (want, temperature, entropy_grad, critic, policy_grad, extra_responses)
    fields = _in_pass(lm, lambda: _response_stats(lm, batch, *options))
    assert fields[0] is not None
    return ResponseStats(fields[0], *fields[1:])


def _in_pass(lm: LanguageModel, compute: Callable[[], T]) -> T:
    """What `compute` returns, a tensor or a tuple of them. Of a sharded model all weights that it
    reads are gathered in the course of it."""
    return compute() if lm.sharded is None else lm.sharded.call(compute)


def _response_stats(
    lm: LanguageModel,
    batch: PackedBatch,
    want: Collection[Stat],
    temperature: float,
    entropy_grad: bool,
    critic: LanguageModel | None,
    policy_grad: bool,
    extra_responses: Sequence[tuple[int, ...]],
) -> tuple[Tensor | None, ...]:
    """The fields of ResponseStats."""
    with torch.set_grad_enabled(policy_grad and torch.is_grad_enabled()):
        if extra_responses:
            hidden, extra_logps = _states_with_extra_logps(lm, batch, extra_responses)
        else:
            hidden, extra_logps = states_before(lm, batch), None
        if want or entropy_grad:
            read = token_stats(
                hidden, lm.head, batch.targets, temperature, entropy_grad=entropy_grad
            )
            logps = read.logps
        else:  # nothing else is computed of the vocabulary
            read, logps = None, token_logps(hidden, lm.head, batch.targets, temperature)
    return (
        logps,
        read.entropy if read and (entropy_grad or "entropy" in want) else None,
        read.correct if read and "correct" in want else None,
        read.log_squares if read and "log_squares" in want else None,
        None if critic is None else _normalised_values(critic, hidden),
        extra_logps,
    )


def response_logps(lm: LanguageModel, batch: PackedBatch, *, temperature: float = 1.0) -> Tensor:
    """Log-prob of each response token, float32 (R,), with gradient."""
    return response_stats(lm, batch, temperature=temperature).logps


def response_scores(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The raw score of each response, float32 (N,), read at its last token."""
    return _in_pass(lm, lambda: lm.score_states(states_last(lm, batch)))


def response_head_scores(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """Each head's raw score of each response, float32 (N, heads), read at its last token."""
    return _in_pass(lm, lambda: lm.head_scores(states_last(lm, batch)))


def token_values(critic: LanguageModel, batch: PackedBatch) -> Tensor:
    """A critic's value before each response token, float32 (R,), in normalised scores."""
    return _in_pass(critic, lambda: _normalised_values(critic, states_before(critic, batch)))


def share_forward_pass(policy: LanguageModel, critic: LanguageModel | None) -> bool:
    """Whether there is a critic that reads the policy's own hidden states."""
    return critic is not None and critic.model is policy.model and critic.adapter == policy.adapter


def _normalised_values(critic: LanguageModel, hidden: Tensor) -> Tensor:
    return (critic.score_states(hidden) - critic.score_mean) / critic.score_std


def states_before(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The hidden states (R, D) that predict each response token."""
    # A token's position is its index in its row; the token before it predicts it.
    index = batch.predict_index
    return _states(lm, batch, index, batch.response_of, batch.position_ids[index])


def states_last(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The hidden states (N, D) at each response's last token."""
    responses = torch.arange(len(batch.last), device=batch.device)
    return _states(lm, batch, batch.last, responses, batch.position_ids[batch.last])


def _states(
    lm: LanguageModel,
    batch: PackedBatch,
    index: Tensor,
    responses: Tensor,
    positions: Tensor,
    captured: CapturedPrefix | None = None,
) -> Tensor:
    """The backbone's output at some tokens, each prompt computed once where the architecture
    allows it: at flat indices of the batch, or at positions in plain rows, one row a response."""
    record = lm.router_record
    # A router's loss needs the last layer's choice for every token.
    routers = {"output_router_logits": record is not None} if lm.routes_tokens else {}
    with lm.precision_context():
        if not lm.shares_prefixes:
            return _row_states(lm, batch, **routers)[responses, positions]
        last = None if record is not None else lm.last_layer
        with nullcontext() if last is None else last.only(index.unique(), len(batch.input_ids)):
            output = lm.backbone(
                input_ids=batch.input_ids[None],
                position_ids=batch.position_ids[None],
                # A ready-made 4-d mask keeps transformers from building one; the plan replaces it.
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.device),
                packed=batch.attention,
                use_cache=False,
                **({} if captured is None else {"memory": captured}),
                **routers,
            )
        if record is not None:
            record.add(batch, output.router_logits, packed=True)
    states: Tensor = output.last_hidden_state[0]
    return states[index]


def _row_states(lm: LanguageModel, batch: PackedBatch, **routers: bool) -> Tensor:
    """The states (N, longest, D) of plain rows, prompt and response together, padded at the end."""
    rows = [(*g.prompt, *r) for g in batch.groups for r in g.responses]
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    ends = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width)[None] < ends[:, None]
    output = lm.backbone(
        input_ids=ids.to(batch.device),
        attention_mask=mask.to(batch.device),
        use_cache=False,
        **routers,
    )
    if lm.router_record is not None:
        lm.router_record.add(batch, output.router_logits, packed=False)
    states: Tensor = output.last_hidden_state
    return states


def _states_with_extra_logps(
    lm: LanguageModel, batch: PackedBatch, extra: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """`states_before`, and without gradient the log-prob of each token of one extra response to
    each group's prompt, one after another; the prompts are computed once for both."""
    captured, count = CapturedPrefix(), len(batch.predict_index)
    prompt_ends = torch.tensor([len(g.prompt) for g in batch.groups]) - 1
    group_ends = torch.tensor([g.num_tokens for g in batch.groups]).cumsum(0)
    prompt_ends[1:] += group_ends[:-1]
    index = torch.cat([batch.predict_index, prompt_ends.to(batch.device)])
    states = _states(lm, batch, index, batch.response_of, batch.position_ids[index], captured)
    tokens = torch.tensor([t for response in extra for t in response])
    positions = [
        torch.arange(len(r)) + len(g.prompt) for g, r in zip(batch.groups, extra, strict=True)
    ]
    with torch.no_grad():
        with lm.precision_context():
            out = lm.backbone(
                input_ids=tokens[None],
                position_ids=torch.cat(positions)[None],
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
                packed=plan_extra_responses(batch.attention, extra),
                memory=ReusedPrefix(captured),
                use_cache=False,
            ).last_hidden_state[0]
        # Each token is predicted by the one before it, the first by the prompt's last token.
        first = torch.tensor([0, *map(len, extra[:-1])]).cumsum(0)
        before = torch.cat([out[:1], out[:-1]]).index_copy(0, first, states[count:])
        extra_logps = token_logps(before, lm.head, tokens)
    return states[:count], extra_logps


@torch.no_grad()
def response_kl(
    lm: LanguageModel, reference: LanguageModel, batch: PackedBatch, *, temperature: float = 1.0
) -> Tensor:
    """KL(π‖π_ref) in nats along each response (N,): the sum over its tokens of the exact KL."""
    per_token = token_kl(
        states_before(lm, batch),
        lm.head,
        states_before(reference, batch),
        reference.head,
        temperature,
    )
    return batch.per_response(per_token)
