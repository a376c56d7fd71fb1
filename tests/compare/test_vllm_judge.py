"""A real vLLM server as a judge; runs where ACCORD_VLLM_PYTHON names a Python that has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.workers.vllm_server import VllmServer, vllm_python

from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import Candidates
from accord.compare.rewards.reward import PromptResponse
from accord.lm.scratch import save_untrained, untrained_model
from accord.settings.endpoint import EndpointSettings
from tests.lm.toys import ARCHITECTURES, toy_tokenizer

pytestmark = pytest.mark.skipif(vllm_python() is None, reason="ACCORD_VLLM_PYTHON is not set")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """An untrained model, whose next token is random: only the schema gives its answers a form."""
    python = vllm_python()
    assert python is not None
    folder = tmp_path_factory.mktemp("vllm") / "model"
    shape = {**ARCHITECTURES["llama"], "hidden_size": 128, "intermediate_size": 128}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    shape |= {"max_position_embeddings": 4096}
    save_untrained(
        untrained_model("llama", shape, toy_tokenizer(), seed=0), toy_tokenizer(), folder
    )
    vllm_server = VllmServer(python, folder, "--dtype", "float32", "--served-model-name", "toy")
    yield vllm_server
    vllm_server.close()


def test_its_answers_have_the_form_of_the_schema(server: VllmServer) -> None:
    # A string of any characters ends with one token in some 300: two in three within 320.
    settings = EndpointSettings(
        base_url=f"{server.url}/v1", temperature=1.0, answer_tokens=1200, attempts=6
    )
    judge = AiJudge(settings, "toy")
    scores = judge.scores(
        [PromptResponse("say hi", "hi"), PromptResponse("say no", "no")], lowest=3, highest=7
    )
    assert all(isinstance(score, int) and 3 <= score <= 7 for score in scores)
    (ranks,) = judge.ranks([Candidates("say hi", ("hi", "hello"), (True, True))])
    assert ranks in [(0, 0), (0, 1), (1, 0)]
    usage = judge.usage()
    assert (usage["refused"], usage["missing"]) == (0, 0)
    assert usage["prompt_tokens"] > 4 * 300
    assert usage["answer_tokens"] > 0
    restarted = AiJudge(settings, "toy")
    assert restarted.ranks([Candidates("say hi", ("hi", "hello"), (True, True))]) == [ranks]
    assert restarted.usage()["calls"] == 0
