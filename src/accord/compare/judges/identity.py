"""The fingerprint of a judge at an endpoint: with any part of it changed, it is another judge."""

from __future__ import annotations

from accord.compare.judges.judge import AiJudge
from accord.compare.judges.prompts import pair_request, retry_request
from accord.compare.store.fingerprint import JudgeFingerprint
from accord.runs import digest_json


def judge_fingerprint(judge: AiJudge) -> JudgeFingerprint:
    """The model, the endpoint, the digests of the prompt's form and of the rubric, and the settings
    that change an answer.

    The form is the request on two fixed texts without a rubric. How the server is reached (key,
    time-outs, concurrency, limits on spending) changes no verdict.
    """
    settings = judge.endpoint.settings
    request = pair_request("", "prompt", ("one", "two"), (True, False))
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
        },
    )
