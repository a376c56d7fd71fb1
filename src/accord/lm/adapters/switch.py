"""Which adapter of a base is active in a forward pass, where several are on one base."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from types import TracebackType
from typing import Any

POLICY = "default"  # peft's name of a first adapter, which it saves without a subfolder


class AdapterSwitch:
    """Activates the adapters of one peft model; outside of any context the first one is active.

    A switch sets a name in each adapted layer. It copies no weights and changes no `requires_grad`,
    unlike peft's `set_adapter` and `disable_adapter`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.refresh()

    def refresh(self) -> None:
        """Collect the adapted layers again, after an adapter was added; activates the first."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        self.activate(POLICY)

    def activate(self, adapter: str | None) -> None:
        """Use this adapter in forward passes from now on; None: the base alone."""
        names = [] if adapter is None else [adapter]
        for layer in self.layers:
            layer._active_adapter = names
        self.adapter = adapter

    def activated(self, adapter: str | None) -> AbstractContextManager[None]:
        """A context in which forward passes use this adapter. May be entered several times."""
        return _ActivatedAdapter(self, adapter)

    def checkpoint_contexts(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a checkpointed layer's forward pass and of its recomputation
        (`context_fn` of torch.utils.checkpoint).

        The recomputation runs in the backward pass, when another adapter may be active.
        """
        return nullcontext(), self.activated(self.adapter)


class _ActivatedAdapter:
    def __init__(self, switch: AdapterSwitch, adapter: str | None) -> None:
        self.switch, self.adapter = switch, adapter
        self.before: list[str | None] = []

    def __enter__(self) -> None:
        self.before.append(self.switch.adapter)
        if self.switch.adapter != self.adapter:
            self.switch.activate(self.adapter)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        before = self.before.pop()
        if self.switch.adapter != before:
            self.switch.activate(before)


def adapter_name(parameter_name: str) -> str | None:
    """The adapter that a parameter of a peft model belongs to; None for a base parameter."""
    parts = parameter_name.split(".")
    for marker, adapter in pairwise(parts):
        if marker.startswith("lora_") or marker == "modules_to_save":
            return adapter
    return None
