"""The memory of a pass of a model that several processes divide (`lm.sharding.shards`), beside what
each holds throughout: layers that are gathered, and gradients before they are summed and divided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from accord.learn.plan.passes import PassMemory
from accord.learn.plan.phases import ACTIVATIONS, GATHERED, GRADIENTS, UNDIVIDED
from accord.lm.model import LanguageModel
from accord.lm.sharding.shards import decoder_layers

REDUCED = 4  # bytes of a number in the sums of gradients, which are float32


@dataclass(frozen=True, slots=True)
class ShardExchange:
    """Bytes of a divided model's groups of parameters in a process: of the `root` (embeddings, last
    norm, vocabulary head), which is gathered for a whole pass, of the largest decoder `layer`, and
    of the `whole` model, all in the precision of the pass; of the gradients of the first two, and
    of those of the root that come first, before they are summed (`root_gradient`, ...); and
    of the buffers in which they are. `parameter` is the largest one in float32.

    A group is received in one buffer and copied into its parameters; the next one's buffer is there
    before that of a layer is released. Without a GPU gloo exchanges in a `staging` copy of each.
    """

    root: int
    layer: int
    whole: int
    parameter: int
    root_gradient: int
    head_gradient: int
    layer_gradient: int
    root_sum: int
    layer_sum: int
    staging: bool
    releases_layers: bool = True

    @property
    def buffers(self) -> int:
        """Buffers of a group that is exchanged."""
        return 2 if self.staging else 1

    @property
    def sampling(self) -> int:
        """The whole weights, while each process works at its own pace, with the buffers of the last
        group that was gathered."""
        return self.whole + self.buffers * max(self.root, self.layer)

    def forward(self, activations: int) -> dict[str, int]:
        """The parts of a pass without gradient, of the moment when they are most: its begin, when
        the root is copied from its buffer, or later, when a layer is computed."""
        begin = {ACTIVATIONS: 0, GATHERED: 2 * self.root + self.buffers * self.layer}
        later = {ACTIVATIONS: activations, GATHERED: self.root + (1 + self.buffers) * self.layer}
        return _larger(begin, later)

    def backward(self, memory: PassMemory, *, earlier: int, left: int) -> dict[str, int]:
        """The parts of a pass forward and backward. `earlier` are bytes of this process's gradients
        of earlier passes, `left` of those that it has behind the pass.

        While activations go, gradients come, both a layer at a time, so the most is at the begin of
        the way back, or at its end, when the gradients of the root are summed.
        """
        if self.releases_layers:
            gathered = self.root + (1 + self.buffers) * self.layer
        else:
            gathered = self.whole + self.buffers * self.layer
        during = {
            GRADIENTS: earlier,
            ACTIVATIONS: memory.peak,
            GATHERED: gathered,
            UNDIVIDED: self.head_gradient + self.layer_gradient + self.buffers * self.layer_sum,
        }
        sums = self.buffers * self.root_sum
        end = {
            GRADIENTS: max(earlier, left),
            ACTIVATIONS: 0,
            GATHERED: 0 if sums > self.root else self.root,
            UNDIVIDED: self.root_gradient + (sums if sums > self.root else 0),
        }
        return _larger(during, end)


def exchange_of(
    lm: LanguageModel, *, element_size: int, staging: bool, releases_layers: bool
) -> ShardExchange:
    """The exchange of a (weightless) model whose gathered weights have `element_size` bytes each.

    Raises SettingsError where it has no list of decoder layers.
    """
    layers = [_divided(lm, layer) for layer in decoder_layers(lm)]
    of_layers = {id(p) for layer in layers for p in layer}
    root = [p for p in _divided(lm, lm.model) if id(p) not in of_layers]
    embeddings = lm.inner.get_input_embeddings().weight
    head = lm.inner.get_output_embeddings()
    first = [p for p in root if p is not embeddings or (head is not None and head.weight is p)]
    largest = max(layers, key=_numel)
    sums = [REDUCED * _numel(p for p in group if p.requires_grad) for group in (root, largest)]
    return ShardExchange(
        root=element_size * _numel(root),
        layer=element_size * _numel(largest),
        whole=element_size * (_numel(root) + sum(map(_numel, layers))),
        parameter=REDUCED * max(p.numel() for p in (*root, *largest)),
        root_gradient=element_size * sums[0] // REDUCED,
        head_gradient=element_size * _numel(p for p in first if p.requires_grad),
        layer_gradient=element_size * sums[1] // REDUCED,
        root_sum=sums[0],
        layer_sum=sums[1],
        staging=staging,
        releases_layers=releases_layers,
    )


def _divided(lm: LanguageModel, module: nn.Module) -> list[Tensor]:
    whole = {id(p) for n, p in lm.model.named_parameters() if lm.stays_float32(n)}
    return [p for p in module.parameters() if id(p) not in whole]


def _numel(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _larger(*moments: dict[str, int]) -> dict[str, int]:
    return max(moments, key=lambda parts: sum(parts.values()))
