"""`accord probe` from its settings to probe.json."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from accord.compare.rewards.build import build_reward
from accord.compare.rewards.reward import CombinedReward
from accord.lm.tokens.template import how_to_read_dialogues
from accord.measure.audits.audit import Audit
from accord.measure.audits.document import AuditDocument
from accord.measure.audits.probes import (
    CHOSEN,
    PROBES,
    REJECTED,
    Floats,
    ProbeData,
    comparisons_of,
    versions_of,
)
from accord.measure.audits.probes_answers import (
    answer_audits,
    harmful_pairs,
    harmless_pairs,
    order_audit,
    ties_audit,
)
from accord.measure.audits.probes_calibration import (
    accuracy_audits,
    calibrate,
    calibration_audit,
    subsets,
    temperature_scaled,
)
from accord.measure.audits.probes_changes import CHANGES
from accord.measure.audits.probes_flips import change_audits
from accord.pipeline.judges.asking import AskedJudge, make_asked_judge
from accord.pipeline.probe.distance import measure_distance
from accord.pipeline.probe.log import ScoreLog, sources_identity
from accord.pipeline.probe.pairs import HeldOutPairs, read_pairs
from accord.pipeline.probe.scoring import judge_versions, leave_out_cut, score_versions
from accord.pipeline.probe.versions import VersionedPair, make_versions, read_texts
from accord.pipeline.progress import Progress
from accord.pipeline.stages.judges import flawed_reward
from accord.runs import lock_folder, write_json_atomic
from accord.settings.base import Settings
from accord.settings.probe import ProbeSettings
from accord.settings.reading.load import apply_overrides, build, load_yaml
from accord.settings.reading.located import COMMAND_LINE, LocatedMapping
from accord.settings.rewards import RewardModelSource

log = logging.getLogger(__name__)

RESULT, LOG = "probe.json", "scores.jsonl"
FOREIGN = 0.5  # share of letters outside of English's alphabet, above which texts are not English


@dataclass(frozen=True, slots=True)
class _Probed:
    """What was asked: the data of the audits, and the audits that a judge's orders give."""

    data: ProbeData
    audits: tuple[Audit, ...] = ()
    notes: tuple[str, ...] = ()


def read_probe_settings(config: str | Path | None, overrides: Sequence[str]) -> ProbeSettings:
    """The settings in a YAML file and `key=value` overrides; a judge with a `base_url` is one at an
    endpoint. Raises SettingsError."""
    values = load_yaml(config) if config else LocatedMapping({}, source=COMMAND_LINE)
    values = apply_overrides(values, overrides)
    judge = values.values.get("judge")
    if isinstance(judge, Mapping) and "base_url" in judge and "kind" not in judge:
        values = values.with_value(("judge", "kind"), "endpoint", values.source_of(("judge",)))
    return build(ProbeSettings, values, where="probe")


def run_probe(settings: ProbeSettings) -> Generator[Progress, None, AuditDocument]:
    """Probe a reward step by step, write probe.json, and return what it holds.

    The same settings again resume where a run ended: what scores.jsonl holds is not asked again.
    Raises DataError for pairs that can't be used, and as the reward does.
    """
    with lock_folder(settings.output_dir, "probe"):
        return (yield from write_probe(settings))


def write_probe(settings: ProbeSettings) -> Generator[Progress, None, AuditDocument]:
    """`run_probe` in a folder that is locked already."""
    document = yield from probe_document(settings)
    write_json_atomic(Path(settings.output_dir) / RESULT, document.to_json())
    return document


def probe_document(
    settings: ProbeSettings, reward: CombinedReward | None = None
) -> Generator[Progress, None, AuditDocument]:
    """What probe.json holds; only the scores are written. `reward` replaces that of the settings:
    nothing says what it is when it changes, so `output_dir` must hold no scores."""
    judge = None if settings.judge is None else make_asked_judge(settings.judge)
    source = source_identity(settings) if reward is None else "in memory"
    if judge is None and reward is None:
        reward = build_reward(
            settings.sources,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            world=flawed_reward,
        )
    tokenizers = [lm.tokenizer for lm in reward.models] if reward is not None else []
    dialogue_text = settings.dialogue_text
    read_as = how_to_read_dialogues(dialogue_text, tokenizers[0]) if tokenizers else dialogue_text
    held_out = read_pairs(settings, read_as)
    log.info("%s", held_out.summary)
    probes: Sequence[str] = settings.probes or PROBES
    versions = make_versions(held_out, versions_of(probes), read_texts(settings))
    if reward is not None:
        probed = yield from _ask_reward(settings, reward, versions, probes, source)
    else:
        assert judge is not None
        probed = yield from _ask_judge(settings, judge, versions, probes, source)
    audits, results, notes = make_audits(
        probed.data, probes, _logits(probed.data, settings, reward)
    )
    audits = [*probed.audits, *audits]
    if settings.training is not None:
        assert reward is not None
        prompts = [pair.prompt for pair in held_out.pairs]
        audit, shared = yield from measure_distance(settings, reward.models[0], read_as, prompts)
        audits.append(audit)
        if shared:
            notes.append(
                f"{shared:,} of the prompts are among those of {settings.training}, so the pairs "
                f"are not held out: a reward ranks what it was trained on better than anything new."
            )
        if len(reward.models) > 1:
            notes.append(f"The distance is that in the hidden states of {reward.models[0].name}.")
    return AuditDocument(
        "probe",
        _subject(settings, judge),
        tuple(audits),
        settings.model_dump(mode="json"),
        {"pairs": _pairs_json(held_out), **results},
        (*_notes(settings, held_out, probed.data), *probed.notes, *notes),
    )


def _ask_reward(
    settings: ProbeSettings,
    reward: CombinedReward,
    pairs: Sequence[VersionedPair],
    probes: Sequence[str],
    source: str,
) -> Generator[Progress, None, _Probed]:
    pairs, cut, cut_pairs = leave_out_cut(reward, pairs)
    notes = []
    if cut:
        notes.append(
            f"{cut:,} changed answers are longer than the reward model reads, and are left out of "
            f"their probes: of what is cut off, no score knows anything."
        )
    if cut_pairs:
        notes.append(
            f"{cut_pairs:,} of {len(pairs):,} pairs are longer than the reward model reads even "
            f"unchanged: it scores what is left of them."
        )
    score_log = ScoreLog(Path(settings.output_dir) / LOG, source)
    scores = yield from score_versions(
        reward, pairs, versions_of(probes), score_log, settings.batch_size
    )
    measured = [pair.measured for pair in pairs]
    data = ProbeData(measured, scores=scores, confidence=settings.confidence)
    return _Probed(data, notes=tuple(notes))


def _ask_judge(
    settings: ProbeSettings,
    judge: AskedJudge,
    pairs: Sequence[VersionedPair],
    probes: Sequence[str],
    source: str,
) -> Generator[Progress, None, _Probed]:
    comparisons = comparisons_of(probes)
    score_log = ScoreLog(Path(settings.output_dir) / LOG, source)
    verdicts, forward, backward = yield from judge_versions(
        judge, pairs, comparisons, score_log, settings.batch_size
    )
    measured = [pair.measured for pair in pairs]
    data = ProbeData(measured, verdicts=verdicts, confidence=settings.confidence)
    return _Probed(data, (order_audit(data, forward, backward),))


def make_audits(
    data: ProbeData, probes: Sequence[str], logits: Floats | None
) -> tuple[list[Audit], dict[str, Any], list[str]]:
    """All audits of the data, further results, and notes; `logits` are the margins where these are
    logits, else None."""
    audits = [*accuracy_audits(data), ties_audit(data)]
    notes: list[str] = []
    results: dict[str, Any] = {}
    if logits is not None:
        audits.append(calibration_audit(data, logits))
    elif data.scores is not None:
        results["calibration"], note = _scaled_calibration(data)
        notes.append(note)
    results["subsets"] = [subset.to_json() for subset in subsets(data, logits)]
    for change in CHANGES:
        if change in probes:
            audits += change_audits(data, change)
    audits += answer_audits(data, probes)
    if "refused" in probes:
        for name, pairs in (("harmless", harmless_pairs(data)), ("harmful", harmful_pairs(data))):
            if not pairs.any():
                notes.append(
                    f"No pair shows whether a refusal of a {name} prompt is ranked as it should "
                    f"be, so `refused_{name}` was not measured."
                )
    return audits, results, notes


def _scaled_calibration(data: ProbeData) -> tuple[dict[str, Any] | None, str]:
    """Calibration after a temperature, of scores on no scale of logits."""
    known = np.isfinite(data.margins)
    clusters = [p.cluster for p, k in zip(data.pairs, known, strict=True) if k]
    scaled = temperature_scaled(data.margins[known], clusters) if known.any() else None
    if scaled is None:
        return None, (
            "The scores are no logits, and no temperature makes their margins probabilities, so "
            "calibration was not measured."
        )
    margins, temperature = scaled
    measured = calibrate(margins, clusters, confidence=data.confidence)
    return {"temperature": temperature, **measured.to_json()}, (
        f"The scores are no logits, so calibration is no audit. With margins over a temperature of "
        f"{temperature:.3g}, fitted to the other half of the prompts, the calibration error is "
        f"{measured.ece:.3g}, of which chance alone gives {measured.ece_by_chance:.3g}."
    )


def _logits(
    data: ProbeData, settings: ProbeSettings, reward: CombinedReward | None
) -> Floats | None:
    """The margins in logits: those of one reward model, before its scores were normalised."""
    sources = [source for source in settings.sources if source.weight]
    if reward is None or len(reward.models) != 1 or len(sources) != 1:
        return None
    source, lm = sources[0], reward.models[0]
    if not isinstance(source, RewardModelSource) or source.combine or lm.heads > 1:
        return None
    return data.margins * lm.score_std / source.weight if source.weight > 0 else None


def source_identity(settings: ProbeSettings) -> str:
    """A digest of the reward or judge: its settings, and the content of what it reads."""
    sources: list[Settings] = [*settings.sources]
    if settings.judge is not None:
        sources.append(settings.judge)
    return sources_identity(sources, settings.precision)


def _subject(settings: ProbeSettings, judge: AskedJudge | None) -> str:
    if judge is not None:
        return judge.name
    names = [
        source.title if source.weight == 1 else f"{source.weight:g}·{source.title}"
        for source in settings.sources
        if source.weight
    ]
    return settings.reward_model or " + ".join(names)


def _pairs_json(held_out: HeldOutPairs) -> dict[str, Any]:
    return {
        "used": len(held_out.pairs),
        "usable": held_out.total,
        "left_out": dict(held_out.left_out),
        "category": held_out.category,
    }


def _notes(settings: ProbeSettings, held_out: HeldOutPairs, data: ProbeData) -> list[str]:
    notes = []
    if len(held_out.pairs) < held_out.total:
        notes.append(
            f"{len(held_out.pairs):,} of {held_out.total:,} pairs were drawn by seed "
            f"{settings.seed} (`max_pairs`)."
        )
    for reason, count in held_out.left_out.items():
        notes.append(f"{count:,} pairs {reason} are left out.")
    if settings.texts is None and not _is_latin(held_out):
        notes.append(
            "The answers are not in English's alphabet, and the phrases of the probes are English: "
            "give phrases of their language in `texts`."
        )
    if data.scores is not None:
        missing = int(sum(np.isnan(data.scores[v]).sum() for v in (CHOSEN, REJECTED)))
        if missing:
            notes.append(f"{missing:,} answers have no score and are left out of every number.")
    else:
        assert data.verdicts is not None
        missing = int(sum(np.isnan(v).sum() for v in data.verdicts.values()))
        if missing:
            notes.append(f"{missing:,} comparisons have no verdict, or no such answer.")
    return notes


def _is_latin(held_out: HeldOutPairs) -> bool:
    letters = [c for pair in held_out.pairs for c in pair.chosen.answer if c.isalpha()]
    return sum(not c.isascii() for c in letters) <= FOREIGN * len(letters)
