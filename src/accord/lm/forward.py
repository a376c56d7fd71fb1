"""The one forward pass: hidden states of a packed batch, and what all methods read off them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache

from accord.errors import ModelError
from accord.lm.attention.packed import NAME
from accord.lm.attention.reuse import Behind, Captured, plan_behind
from accord.lm.kernels.last_layer import LastLayer
from accord.lm.model import LanguageModel
from accord.lm.packing import PackedBatch, PromptGroup, pack
from accord.objectives.logprobs import (
    token_kl,
    token_logps,
    token_logps_and_entropy,
    token_logps_and_log_squares,
    token_logps_and_statistics,
)

# Nats by which a packed log-prob may differ from the model's own, by the weights' precision.
AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.2}


def states_before(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The hidden states (R, D) that predict each response token."""
    # A token's position is its place in its row, and what predicts it stands before it.
    return _states(
        lm, batch, batch.predict_index, batch.response_of, batch.position_ids[batch.predict_index]
    )


def states_last(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The hidden states (N, D) at each response's last token."""
    responses = torch.arange(len(batch.last), device=batch.device)
    return _states(lm, batch, batch.last, responses, batch.position_ids[batch.last])


def _states(
    lm: LanguageModel,
    batch: PackedBatch,
    flat: Tensor,
    responses: Tensor,
    positions: Tensor,
    captured: Captured | None = None,
) -> Tensor:
    """The backbone's output at some tokens, each prompt computed once where the architecture
    allows it: at flat indices of the batch, or at positions in plain rows, one a response."""
    with lm.precision_context():
        if not lm.shares_prefixes:
            return _row_states(lm, batch)[responses, positions]
        last = lm.last_layer
        with nullcontext() if last is None else last.only(flat.unique(), len(batch.input_ids)):
            out = lm.backbone(
                input_ids=batch.input_ids[None],
                position_ids=batch.position_ids[None],
                # A ready-made 4-d mask keeps transformers from building one; the plan replaces it.
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.device),
                packed=batch.attention,
                use_cache=False,
                **({} if captured is None else {"memory": captured}),
            ).last_hidden_state[0]
    return out[flat]


def _row_states(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The states (N, longest, D) of plain rows, prompt and response together, padded at the end."""
    rows = [(*g.prompt, *r) for g in batch.groups for r in g.responses]
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    ends = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width)[None] < ends[:, None]
    out: Tensor = lm.backbone(
        input_ids=ids.to(batch.device), attention_mask=mask.to(batch.device), use_cache=False
    ).last_hidden_state
    return out


def response_logps(lm: LanguageModel, batch: PackedBatch, *, temperature: float = 1.0) -> Tensor:
    """Log-prob of each response token, float32 (R,), with gradient."""
    hidden = states_before(lm, batch)
    return token_logps(hidden, lm.head, batch.targets, temperature)


def response_logps_and_log_squares(lm: LanguageModel, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Log-prob of each response token (R,), and without gradient log Σ p² of its distribution."""
    return token_logps_and_log_squares(states_before(lm, batch), lm.head, batch.targets)


def response_logps_and_entropy(
    lm: LanguageModel, batch: PackedBatch, *, temperature: float = 1.0, entropy_learns: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-prob of each response token (R,), and the entropy of its distribution (R,), which has
    a gradient only where it is to be learned from."""
    hidden = states_before(lm, batch)
    logps, entropy = _logps(lm, batch, hidden, temperature, True, entropy_learns)
    assert entropy is not None
    return logps, entropy


def response_logps_and_others(
    lm: LanguageModel, batch: PackedBatch, others: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor]:
    """Log-prob of each response token (R,), with gradient; and of each token of another response
    to each group's prompt, one after another, without. The prompts are read once for both.

    Only where the model shares prefixes, on a CPU.
    """
    captured, count = Captured(), len(batch.predict_index)
    ends = torch.tensor([len(g.prompt) for g in batch.groups]) - 1
    starts = torch.tensor([g.num_tokens for g in batch.groups]).cumsum(0)
    ends[1:] += starts[:-1]
    flat = torch.cat([batch.predict_index, ends.to(batch.device)])
    states = _states(lm, batch, flat, batch.response_of, batch.position_ids[flat], captured)
    logps = token_logps(states[:count], lm.head, batch.targets)
    tokens = torch.tensor([t for other in others for t in other])
    positions = [
        torch.arange(len(o)) + len(g.prompt) for g, o in zip(batch.groups, others, strict=True)
    ]
    with torch.no_grad():
        with lm.precision_context():
            out = lm.backbone(
                input_ids=tokens[None],
                position_ids=torch.cat(positions)[None],
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool),
                packed=plan_behind(batch.attention, others),
                memory=Behind(captured),
                use_cache=False,
            ).last_hidden_state[0]
        # A token is predicted by the one before it, the first by the prompt's end.
        first = torch.tensor([0, *map(len, others[:-1])]).cumsum(0)
        before = torch.cat([out[:1], out[:-1]]).index_copy(0, first, states[count:])
        return logps, token_logps(before, lm.head, tokens)


def response_scores(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The raw score of each response, float32 (N,), read at its last token."""
    return lm.scores_of(states_last(lm, batch))


def response_head_scores(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """Each head's raw score of each response, float32 (N, heads), read at its last token."""
    return lm.head_scores(states_last(lm, batch))


def token_values(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """A critic's value before each response token, float32 (R,), in normalised scores."""
    return (lm.scores_of(states_before(lm, batch)) - lm.score_mean) / lm.score_std


def share_forward_pass(policy: LanguageModel, critic: LanguageModel) -> bool:
    """Whether a critic reads the policy's own hidden states."""
    return critic.model is policy.model and critic.adapter == policy.adapter


def shared_pass(
    policy: LanguageModel,
    critic: LanguageModel,
    batch: PackedBatch,
    *,
    temperature: float = 1.0,
    learns: bool = True,
    entropy: bool = False,
    entropy_learns: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Log-prob of each response token, its distribution's entropy if wanted, and the value before
    it, each (R,), of a critic that reads the policy's own hidden states.

    With `learns` False no gradient reaches the policy, only the critic's head.
    """
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        hidden = states_before(policy, batch)
        logps, found = _logps(policy, batch, hidden, temperature, entropy, entropy_learns)
    return logps, found, (critic.scores_of(hidden) - critic.score_mean) / critic.score_std


def _logps(
    lm: LanguageModel,
    batch: PackedBatch,
    hidden: Tensor,
    temperature: float,
    entropy: bool,
    entropy_learns: bool,
) -> tuple[Tensor, Tensor | None]:
    if entropy_learns:
        return token_logps_and_entropy(hidden, lm.head, batch.targets, temperature)
    if not entropy:
        return token_logps(hidden, lm.head, batch.targets, temperature), None
    return token_logps_and_statistics(hidden, lm.head, batch.targets, temperature)[:2]


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


@torch.no_grad()
def check_packing(lm: LanguageModel) -> bool:
    """Whether packed states lead to the model's own logits or scores; sets `shares_prefixes`.

    Two prompts with two responses each go through the packed pass and through the model as it
    is. Where they differ, as for state-space layers, the model falls back to plain rows.
    """
    vocabulary = lm.inner.config.get_text_config().vocab_size
    token = [(7 * i + 3) % vocabulary for i in range(24)]
    batch = pack(
        [
            PromptGroup(tuple(token[:5]), (tuple(token[5:9]), tuple(token[9:12]))),
            PromptGroup(tuple(token[12:15]), (tuple(token[15:20]), tuple(token[20:24]))),
        ],
        lm.device,
    )
    allowed = AGREEMENT.get(next(lm.model.parameters()).dtype, 0.2)
    precision, lm.precision = lm.precision, "fp32"
    try:
        lm.shares_prefixes = False
        own = _read(lm, batch)
        if not torch.allclose(own, _own(lm, batch), atol=allowed, rtol=allowed):
            raise ModelError(
                f"{lm.name}: the {type(lm.inner).__name__} logits are not its hidden states "
                f"times its output embeddings, so accord can't compute its log-probs. "
                f"Use a decoder with a plain vocabulary head."
            )
        lm.shares_prefixes = True
        lm.shares_prefixes = _packed_agrees(lm, batch, own, allowed)
    finally:
        lm.precision = precision
    return lm.shares_prefixes


def _packed_agrees(lm: LanguageModel, batch: PackedBatch, own: Tensor, allowed: float) -> bool:
    config = lm.inner.config.get_text_config()
    if getattr(config, "attention_chunk_size", None) is not None:
        return False  # attends within chunks, which a short probe would not show
    if any(
        hasattr(layer, "update_recurrent_state") for layer in DynamicCache(config=config).layers
    ):
        return False  # passes a state on, which new weights hardly let the probe show
    before = config._attn_implementation
    try:
        lm.inner.set_attn_implementation(NAME)
        lm.last_layer = LastLayer(lm.backbone)
        agrees = _same(lm, batch, own, allowed)
        if not agrees:  # its last layer may be of another kind
            lm.last_layer.remove()
            lm.last_layer = None
            agrees = _same(lm, batch, own, allowed)
    except ValueError:
        agrees = False
    if not agrees:
        lm.inner.set_attn_implementation(before)
    return agrees


def _same(lm: LanguageModel, batch: PackedBatch, own: Tensor, allowed: float) -> bool:
    try:
        return bool(torch.allclose(_read(lm, batch), own, atol=allowed, rtol=allowed))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False


def _read(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    return response_scores(lm, batch) if lm.scalar else response_logps(lm, batch)


def _own(lm: LanguageModel, batch: PackedBatch) -> Tensor:
    """The same numbers from the whole model, one row at a time, head included."""
    found = []
    for group in batch.groups:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt, *response]], device=lm.device)
            if lm.scalar:
                hidden = lm.backbone(input_ids=ids, use_cache=False).last_hidden_state
                found.append(lm.scores_of(hidden)[0, -1:])
                continue
            logps = lm.inner(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            begin = len(group.prompt)
            target = torch.tensor(response, device=lm.device)[:, None]
            found.append(logps[begin - 1 : -1].gather(1, target).squeeze(1))
    return torch.cat(found)
