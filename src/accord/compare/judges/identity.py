"""The fingerprint of a judge at an endpoint: with any part of it changed, it is another judge."""

from __future__ import annotations

from typing import Any

from accord.compare.judges.judge import AiJudge
from accord.compare.judges.prompts import retry_request
from accord.compare.judges.questions import Candidates
from accord.compare.store.fingerprint import JudgeFingerprint
from accord.runs import digest_json

LOCAL = "local"
"""The endpoint of a model in process."""


def judge_fingerprint(judge: AiJudge) -> JudgeFingerprint:
    """The model, the endpoint, the digests of the prompt's form and of the rubric, and the settings
    that change an answer; of a model in process, the digest of its weights too.

    The form is the request on two fixed texts without a rubric. How the server is reached (key,
    time-outs, concurrency, limits on spending) changes no verdict.
    """
    settings = judge.endpoint.settings
    texts = Candidates("prompt", ("one", "two"), (True, False))
    reference = None if judge.references is None else "reference"
    request = judge.request(texts, reference, rubric="")
    form = [request.text, dict(request.schema), retry_request(request, 1).text]
    return JudgeFingerprint(
        model=judge.endpoint.model,
        endpoint=judge.endpoint.url,
        prompt=digest_json(form),
        rubric=digest_json(judge.rubric),
        settings={
            "temperature": settings.temperature,
            "answer_tokens": settings.answer_tokens,
            "attempts": settings.attempts,
            "output": settings.output,
            **_of_local(judge),
        },
    )


def _of_local(judge: AiJudge) -> dict[str, Any]:
    weights = getattr(judge.endpoint, "weights", None)
    if weights is None:
        return {}
    settings: Any = judge.endpoint.settings
    shared = {"weights": weights, "precision": settings.precision, "verdict": settings.verdict}
    return shared if judge.tie_margin is None else {**shared, "tie_margin": judge.tie_margin}
