"""The KL of a contestant's responses from a reference model, and how it was computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accord.compare.rewards.models import encode_for_reward
from accord.data.write import ResponseRow
from accord.lm.forward import response_kl
from accord.lm.load import Device, load_causal
from accord.lm.model import LanguageModel
from accord.lm.packing import forward_batches, pack
from accord.measure.over_optimisation import best_of_n_kl
from accord.pipeline.stages.responses import by_row
from accord.runs.activity import with_activity
from accord.settings.stages import Contestant

BATCH = 64


def contestant_kl(
    contestant: Contestant,
    rows: Sequence[ResponseRow],
    reference: LanguageModel | None,
    reference_folder: str,
    *,
    device: Device = "auto",
) -> tuple[list[list[float]] | float | None, str]:
    """KL from the reference in nats per response, [rows][responses] or one number where it has a
    closed form, and how it was computed; None where the contestant has no model. Best-of-N needs
    no `reference`."""
    if contestant.best_of is not None:
        return best_of_n_kl(contestant.best_of), "closed form, an upper bound where answers tie"
    if contestant.model is None:
        return None, "not measured"
    if Path(contestant.model).resolve() == Path(reference_folder).resolve():
        return 0.0, "the reference itself"
    assert reference is not None
    lm = load_causal(contestant.model, device=device)
    groups = [
        encode_for_reward(lm, r.prompt, r.text, r.finished) for row in rows for r in row.responses
    ]
    kl: list[float] = []
    batches = list(forward_batches([g.num_tokens for g in groups], BATCH))
    for indices in with_activity(batches, "KL, batch", len(batches)):
        batch = pack([groups[i] for i in indices], lm.device)
        kl += response_kl(lm, reference, batch).tolist()
    return by_row(rows, kl), "exact at each token, summed along the sampled text"
