"""The memory of one forward and backward pass: the real code on tensors without data.

What autograd saves, the buffers of each operation and the gradients are counted as they come and
go (`live.LiveBytes`). All layers between the second and the last are alike, so a few are traced,
and the rest are copies of the third.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from accord.errors import ModelError
from accord.learn.plan.live import LiveBytes
from accord.lm.attention.plan import AttentionPlan
from accord.lm.kernels.last_layer import LAYERS
from accord.lm.model import LanguageModel
from accord.objectives.logprobs import token_logps

Shape = tuple[int, tuple[int, ...]]
"""Tokens of a prompt, and of each of its responses."""
Reads = Literal["tokens", "ends", "values"]
"""What is read of a pass: log-probs, a score at the end of each response, a value per token."""

TRACED = 4  # layers: the first, two between, the last
REPEATED = 2  # the layer whose copies stand for those that are not traced


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Bytes of a pass above those before it: `saved` for the backward pass, `logits` of them in
    buffers of the vocabulary head, the most in the forward and in the backward pass, and the
    gradients that it leaves. `products` is the number of different matrix products in bf16."""

    tokens: int
    saved: int
    forward: int
    backward: int
    gradients: int
    products: int = 0

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward)


@dataclass
class _Marks:
    """Peak and end of each interval, relative to the start: of the embeddings, each layer, the
    read-out; and backwards."""

    forward: list[tuple[int, int]] = field(default_factory=list)
    backward: list[tuple[int, int]] = field(default_factory=list)
    products: int = 0


def trace_pass(
    lm: LanguageModel,
    groups: Sequence[Shape],
    *,
    reads: Reads = "tokens",
    grad: bool = True,
    keeps_gradients: bool = False,
) -> PassMemory:
    """The memory of a pass of a weightless model over some groups.

    With `keeps_gradients` those of earlier passes are there already, and are added to: they are
    not counted here. Raises ModelError for an architecture whose pass needs data.
    """
    layers = _layers(lm.backbone)
    hooks = _forget_gradients(lm) if keeps_gradients else []
    try:
        with _truncated(lm, layers) as count:
            marks = _trace(lm, groups, reads, grad=grad)
    except (RuntimeError, TypeError) as error:
        if not _needs_data(error):
            raise
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"What a pass of {lm.name} needs can't be computed without its weights: a "
            f"{type(lm.inner).__name__} looks at its numbers ({type(error).__name__}: {text}). "
            f"`--measure` runs a step and measures it."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in lm.model.parameters():
            parameter.grad = None
    tokens = sum(prompt + sum(responses) for prompt, responses in groups)
    memory = _untruncated(marks, tokens, copies=len(layers) - count)
    return replace(memory, products=marks.products)


def _needs_data(error: Exception) -> bool:
    """Whether an error says that an operation wants the numbers of a tensor without data.

    PyTorch raises NotImplementedError where an operation's result, or its shape, depends on them
    (`nonzero`, `tolist`), and otherwise a RuntimeError (`item`) or TypeError (`numpy`) that speaks
    of meta tensors.
    """
    return isinstance(error, NotImplementedError) or re.search(r"\bmeta\b", str(error)) is not None


def _untruncated(marks: _Marks, tokens: int, copies: int) -> PassMemory:
    """The peaks with `copies` more of the layer REPEATED."""
    forward, backward = marks.forward, marks.backward
    if not copies:
        saved = forward[-1][1]
        back = max((peak for peak, _ in backward), default=0)
        left = backward[-1][1] if backward else 0
        return PassMemory(tokens, saved, max(p for p, _ in forward), back, max(0, left))
    at = REPEATED + 1  # forward[0] are the embeddings
    stored = forward[at][1] - forward[at - 1][1]
    extra = copies * stored
    peak = max(
        max(peak for peak, _ in forward[: at + 1]),
        max(peak + extra for peak, _ in forward[at:]),
    )
    saved = forward[-1][1] + extra
    if not backward:
        return PassMemory(tokens, saved, peak, 0, 0)
    # backward[0] is the read-out with the last layer, then the layers down to the first.
    here = TRACED - 1 - REPEATED  # the interval in which the repeated layer goes backward
    start = backward[here - 1][1]
    rise, change = backward[here][0] - start, backward[here][1] - start
    before = max(peak + extra for peak, _ in backward[: here + 1])
    last = start + extra + (copies - 1) * change + rise
    left = extra + copies * change
    after = max(peak + left for peak, _ in backward[here:])
    return PassMemory(tokens, saved, peak, max(before, last, after), max(0, backward[-1][1] + left))


def _trace(lm: LanguageModel, groups: Sequence[Shape], reads: Reads, *, grad: bool) -> _Marks:
    meta = torch.device("meta")
    plan = AttentionPlan(tuple(groups), meta)
    _ = plan.blocks
    tokens, (count, distinct) = plan.num_tokens, _read_counts(groups, reads)

    def index(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=torch.long, device=meta)

    marks, known = _Marks(), [*lm.model.parameters(), *lm.model.buffers()]
    inputs = index(1, tokens), index(1, tokens), torch.ones(1, 1, 1, 1, device=meta).bool()
    targets, unique, chosen = index(count), index(distinct), index(count)
    live = LiveBytes(known)
    with live, torch.set_grad_enabled(grad), _marked_layers(lm, live, marks):
        last = nullcontext() if lm.last_layer is None else lm.last_layer.only(unique, tokens)
        with lm.precision_context(), last:
            output = lm.backbone(
                input_ids=inputs[0],
                position_ids=inputs[1],
                attention_mask=inputs[2],
                packed=plan,
                use_cache=False,
            )
        hidden = output.last_hidden_state[0][chosen]
        del output
        if reads == "tokens":
            loss = token_logps(hidden, lm.head, targets).sum()
        else:
            loss = lm.score_states(hidden).sum()
        del hidden
        marks.forward.append(live.mark())
        if grad:
            loss.backward()
            marks.backward.append(live.mark())
        del loss
    marks.products = len(live.products)
    return marks


def _read_counts(groups: Sequence[Shape], reads: Reads) -> tuple[int, int]:
    """How many states are read, and of how many different tokens."""
    responses = sum(len(r) for _, r in groups)
    if reads == "ends":
        return responses, responses
    count = sum(sum(r) for _, r in groups)
    # The first token of every response to a prompt is predicted by the prompt's last.
    return count, count - responses + len(groups)


@contextmanager
def _marked_layers(lm: LanguageModel, live: LiveBytes, marks: _Marks) -> Iterator[None]:
    """Marks an interval where a layer begins in the forward pass, and where it has ended in the
    backward pass."""
    layers = list(_layers(lm.backbone))
    started: set[int] = set()  # a checkpointed layer begins again in the backward pass

    def hook(number: int) -> Any:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if number in started:
                return
            started.add(number)
            marks.forward.append(live.mark())
            states = args[0] if args else kwargs["hidden_states"]
            if states.requires_grad and number:
                states.register_hook(lambda _: marks.backward.append(live.mark()))

        return before

    handles = [
        layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _truncated(lm: LanguageModel, layers: nn.ModuleList) -> Iterator[int]:
    """The model with its first layers and its last alone; yields how many."""
    backbone, count = lm.backbone, min(len(layers), TRACED)
    name = next(n for n in LAYERS if getattr(backbone, n, None) is layers)
    if count == len(layers):
        yield count
        return
    # Not the last itself: it may be of another kind, and the read-out is hooked onto it.
    config = lm.inner.config.get_text_config()
    before, last = config.num_hidden_layers, lm.last_layer
    setattr(backbone, name, nn.ModuleList([*layers[: count - 1], layers[-1]]))
    config.num_hidden_layers = count
    try:
        yield count
    finally:
        setattr(backbone, name, layers)
        config.num_hidden_layers, lm.last_layer = before, last


def _layers(backbone: nn.Module) -> nn.ModuleList:
    layers = next((x for n in LAYERS if (x := getattr(backbone, n, None)) is not None), None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise ModelError(
            f"The layers of a {type(backbone).__name__} are not layers, so the memory of a pass "
            f"can't be computed. `--measure` runs a step and measures it."
        )
    return layers


def _forget_gradients(lm: LanguageModel) -> list[Any]:
    """Gradients are added to those of an earlier pass, and forgotten."""

    def forget(parameter: Tensor) -> None:
        parameter.grad = None

    return [
        parameter.register_post_accumulate_grad_hook(forget)
        for parameter in lm.model.parameters()
        if parameter.requires_grad
    ]
