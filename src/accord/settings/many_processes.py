"""Settings of a run in several processes: what they divide, and how long they wait."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from accord.settings.base import NotIdentity

Sharding = Annotated[
    Literal["none", "fsdp"] | None,
    NotIdentity,
    Field(
        description="What the processes of a run share: `none`, each has the whole models; `fsdp`, "
        "they divide weights, gradients and optimiser among them (FSDP2). By default as "
        "accelerate's configuration says, else `none`."
    ),
]
DdpTimeout = Annotated[
    int,
    NotIdentity,
    Field(
        ge=1,
        description="Seconds that the processes of a run wait for one that makes no progress; one "
        "that gives no sign of life is waited for 5 minutes at most. Nothing with one process.",
    ),
]
