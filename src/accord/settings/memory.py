"""Settings that trade memory for time or digits: 4-bit weights, 8-bit moments, recomputation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from accord.settings.base import NotIdentity, UnlessDefault

Optim = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
QuantizationName = Literal["nf4"]

# transformers' names of the same optimisers.
_OPTIMISERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
}

Quantization = Annotated[
    QuantizationName | None,
    UnlessDefault,
    Field(
        description="`nf4` holds the frozen base in 4 bits a weight (NormalFloat with double "
        "quantisation, Dettmers et al. 2023), so that `lora` needs a quarter of the memory of bf16 "
        "for it; needs bitsandbytes, an extra of the package."
    ),
]
Optimiser = Annotated[
    Optim,
    UnlessDefault,
    BeforeValidator(lambda name: _OPTIMISERS.get(name, name) if isinstance(name, str) else name),
    Field(
        description="AdamW with moments in float32; in 8 bits a number (Dettmers et al. 2022), a "
        "quarter of their memory; or in 8 bits and paged, so that they move to the machine's "
        "memory where the GPU's is full. The last two need bitsandbytes."
    ),
]
SaveDtype = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    NotIdentity,
    Field(
        description="Precision of the saved weights of a full model: by default that of the files "
        "of the model it started from. Checkpoints have float32 weights in any case.",
    ),
]
ActivationOffload = Annotated[
    bool,
    NotIdentity,
    Field(
        description="Keep what the backward pass needs in the machine's memory instead of the "
        "GPU's: less GPU memory, more time, the same numbers; nothing on a CPU."
    ),
]


def check_memory(settings: Any) -> None:
    """Raise ValueError where 4-bit weights would have to be trained. `settings` are a
    TrainSettings."""
    if settings.quantization is not None and settings.lora is None:
        raise ValueError(
            "`quantization` freezes the weights in 4 bits, and without `lora` they would be "
            "trained. Set `lora: on`, or leave `quantization` out."
        )
