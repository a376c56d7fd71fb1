"""Which adapter of a base takes part in a forward pass, where several sit on one base."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from types import TracebackType
from typing import Any

POLICY = "default"  # peft's name of a first adapter, which it saves without a folder of its own


class AdapterSwitch:
    """Turns the adapters of one peft model on and off; at rest the first of them is on.

    A switch sets a name in each adapted layer. No weight is copied, and no `requires_grad` is
    touched, which peft's own `set_adapter` and `disable_adapter` do.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.refresh()

    def refresh(self) -> None:
        """Look for adapted layers anew, after an adapter was added; the first adapter is on."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.layers = [m for m in self.model.modules() if isinstance(m, BaseTunerLayer)]
        self.turn_to(POLICY)

    def turn_to(self, adapter: str | None) -> None:
        """From now on forward passes use this adapter; None: the base alone."""
        names = [] if adapter is None else [adapter]
        for layer in self.layers:
            layer._active_adapter = names
        self.adapter = adapter

    def using(self, adapter: str | None) -> AbstractContextManager[None]:
        """Within it forward passes use this adapter. May be entered several times."""
        return _Using(self, adapter)

    def once_more(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a checkpointed layer's forward pass and of its recomputation.

        The latter runs in the backward pass, when another adapter may be on by then.
        """
        return nullcontext(), self.using(self.adapter)


class _Using:
    def __init__(self, switch: AdapterSwitch, adapter: str | None) -> None:
        self.switch, self.adapter = switch, adapter
        self.before: list[str | None] = []

    def __enter__(self) -> None:
        self.before.append(self.switch.adapter)
        if self.switch.adapter != self.adapter:
            self.switch.turn_to(self.adapter)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        before = self.before.pop()
        if self.switch.adapter != before:
            self.switch.turn_to(before)


def adapter_of(name: str) -> str | None:
    """The adapter that a parameter of a peft model belongs to, by its name; None: the base's."""
    parts = name.split(".")
    for marker, adapter in pairwise(parts):
        if marker.startswith("lora_") or marker == "modules_to_save":
            return adapter
    return None
