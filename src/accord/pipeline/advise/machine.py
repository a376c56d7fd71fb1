"""Whether the machine can sample during training: memory, and the time of a CPU."""

from __future__ import annotations

from accord.machine.limits import meminfo, memory_limit
from accord.runs.storage import format_bytes
from accord.settings.advise import AdviseSettings

LARGEST_ON_CPU = 50_000_000
"""Parameters beyond which an online iteration takes minutes on a CPU."""
BYTES_PER_PARAMETER = 2
"""Of bf16 weights; adapters train, so gradients and optimiser are small beside them."""
HEADROOM = 1.5
"""For activations and the key-value memory of sampling."""


def online_fits(settings: AdviseSettings) -> tuple[bool, str]:
    """Whether GRPO with adapters fits, and why. The reward model counts like the model."""
    if settings.online is not None:
        return settings.online, f"`online={str(settings.online).lower()}` says so"
    if not settings.trainable:
        return False, "nothing is trained"
    parameters = count_parameters(settings.model, settings.trust_remote_code)
    available, gpu = _available(settings.device)
    needed = int(2 * parameters * BYTES_PER_PARAMETER * HEADROOM)
    size = f"{parameters / 1e6:,.1f} million parameters"
    if not gpu and parameters > LARGEST_ON_CPU:
        return False, f"{size} sample too slowly on a CPU to train online"
    if needed > available:
        return False, (
            f"{size} and as many of a reward model take about {format_bytes(needed)} with "
            f"adapters; {format_bytes(available)} are free"
        )
    return True, f"{size}; about {format_bytes(needed)} of {format_bytes(available)} for GRPO"


def count_parameters(model: str, trust_remote_code: bool) -> int:
    """The parameters of a model, from its configuration; a tied embedding counts once."""
    from accord.lm.weightless import load_weightless

    lm = load_weightless(model, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in lm.model.parameters())


def _available(device: str) -> tuple[int, bool]:
    """Free bytes of the GPU, or of this process's memory; and whether it is a GPU."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), True
    limits = [value for value in (meminfo().get("MemAvailable"), memory_limit()) if value]
    return min(limits, default=2**33), False
