"""The language model that a judge's settings describe: at an endpoint, or in process."""

from __future__ import annotations

from accord.compare.judges.judge import AiJudge, AskedModel
from accord.compare.judges.references import read_references
from accord.settings.judge import JudgeSettings


def build_ai_judge(settings: JudgeSettings) -> AiJudge:
    """The judge of one of LANGUAGE_MODELS. Raises SettingsError where its key or principles are
    missing, DataError for references that can't be used, ModelError for a folder without a model.
    """
    assert settings.model is not None  # JudgeSettings validates this
    references = None
    if settings.references is not None:
        references = read_references(settings.references, settings.reference_column)
    local: AskedModel | None = None
    if settings.kind == "local":
        from accord.compare.judges.local import LocalModel

        local = LocalModel(settings, settings.model)
    letters = settings.verdict == "probabilities"
    return AiJudge(
        settings,
        settings.model,
        endpoint=local,
        references=references,
        tie_margin=settings.tie_margin if letters else None,
    )


def judge_name(settings: JudgeSettings) -> str:
    """The name under which a language model's verdicts are stored."""
    assert settings.model is not None
    return settings.name or settings.model
