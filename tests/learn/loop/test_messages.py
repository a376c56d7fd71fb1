"""What processes send each other has the size of its content, and arrives as it was sent."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from accord.errors import NotFiniteError
from accord.learn.loop.messages import join_tensors, separate_tensors

ROW_TOKENS = 83


def message_size(value: Any) -> int:
    """Bytes: torch.distributed pickles the structure; the content is sent as it is."""
    structure, content = separate_tensors(value)
    return len(pickle.dumps(structure)) + len(content)


def sent_and_received(value: Any) -> Any:
    structure, content = separate_tensors(value)
    return join_tensors(pickle.loads(pickle.dumps(structure)), content)


@dataclass(frozen=True)
class Part:
    """An object with tensors inside, as episodes are."""

    logps: Tensor
    texts: tuple[str, ...]
    by_row: dict[int, tuple[Tensor, float]]


def rows(count: int) -> list[Tensor]:
    """Rows of log-probs as a cached file gives them: views of one flat tensor."""
    return list(torch.arange(count * ROW_TOKENS, dtype=torch.float32).split([ROW_TOKENS] * count))


@pytest.mark.parametrize("container", [list, tuple, lambda r: dict(enumerate(r))])
def test_a_message_grows_linearly_with_its_rows(container: Any) -> None:
    # A row is 83 floats of 4 bytes; the bytes beside them, its position and key, are few.
    sizes = {n: message_size(container(rows(n))) for n in (250, 500, 1000)}
    for count, size in sizes.items():
        assert ROW_TOKENS * 4 * count < size < (ROW_TOKENS * 4 + 64) * count
    assert message_size(rows(1000)[7]) < ROW_TOKENS * 4 + 300  # one view of a large tensor


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).view(2, 3).t(),  # not contiguous
        torch.arange(5)[1:3],
        torch.tensor([True, False, True]),
        torch.tensor([0.1, -2.0], dtype=torch.bfloat16),
        torch.tensor(3.0, dtype=torch.float64),  # no dimensions
        torch.zeros(0, 4),
        torch.arange(3.0).expand(2, 3),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda t: f"{t.dtype} {tuple(t.shape)}",
)
def test_every_tensor_arrives_as_it_was_sent(tensor: Tensor) -> None:
    # A byte before it, so that no element is aligned in the message.
    _, received = sent_and_received((torch.zeros(1, dtype=torch.uint8), tensor))
    assert received.dtype == tensor.dtype
    assert received.shape == tensor.shape
    assert torch.equal(received, tensor)
    assert not received.requires_grad


def test_objects_arrive_with_their_tensors() -> None:
    part = Part(torch.ones(2, 3)[:, 1:], ("á", "b"), {3: (torch.tensor([1, 2]), 0.5)})
    (received, failure) = sent_and_received((part, NotFiniteError("a loss")))
    assert torch.equal(received.logps, part.logps)
    assert received.texts == part.texts
    assert received.by_row[3][1] == 0.5
    assert torch.equal(received.by_row[3][0], torch.tensor([1, 2]))
    assert str(failure) == "a loss"
    assert sent_and_received(None) is None


def test_a_received_tensor_does_not_retain_the_message() -> None:
    first, *_ = sent_and_received(rows(100))
    assert first.untyped_storage().nbytes() == ROW_TOKENS * 4
