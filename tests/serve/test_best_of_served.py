"""Best-of-N over HTTP on a local model, and the options of `accord serve` that start it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from accord.cli import best_of_options
from accord.cli.app import app
from accord.compare.rewards.reward import CombinedReward, PromptResponse, WeightedSource
from accord.errors import DataError, RequestError, RewardError
from accord.lm.model import LanguageModel
from accord.records import Message
from accord.respond.protocol import SamplingSettings
from accord.serve import command
from accord.serve.best_of.choice import BestOfOptions
from accord.serve.best_of.engine import BestOfEngine
from accord.serve.best_of.scoring import Scorer
from accord.serve.best_of.start import BestOf, with_best_of
from accord.serve.best_of.start import best_of_options as read_options
from accord.serve.best_of.stopping import Checkpoint
from accord.serve.engine import Delta, Drops, EngineRequest, Event, TokenUsage
from accord.serve.local import LocalEngine
from accord.serve.upstream.engine import UpstreamEngine
from accord.settings.best_of import read_rewards
from accord.settings.rewards import LengthSource, RewardModelSource
from tests.serve.conftest import Served
from tests.serve.fake_upstream import fake_upstream

Start = Callable[..., Served]


def longest(rows: Any) -> list[float]:
    return [float(len(row.response)) for row in rows]


REWARD = CombinedReward((WeightedSource("length", 1.0, longest),))


@pytest.fixture(scope="module")
def chosen(start: Start, toy_lm: LanguageModel) -> Served:
    """Best-of-4 by length on the toy model."""
    local = LocalEngine(toy_lm, ["toy"], max_rows=16)
    return start(BestOfEngine(local, Scorer(REWARD), BestOfOptions(n=4, limit=16)))


def test_the_answer_is_the_best_of_n_on_the_wire(chosen: Served, start: Start) -> None:
    plain = start()
    candidates = plain.chat(seed=3, n=4, max_tokens=12, temperature=1.0).json()
    texts = [choice["message"]["content"] for choice in candidates["choices"]]
    response = chosen.chat(seed=3, max_tokens=12, temperature=1.0, accord={"scores": True})
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == max(texts, key=len)
    assert answer["usage"] == candidates["usage"]  # that of all four
    assert answer["accord"]["candidate_scores"] == [len(text) for text in texts]
    assert float(response.headers["X-Accord-Score"]) == max(map(len, texts))
    assert response.headers["X-Accord-Best-Of"] == "4"
    # Its log-probs are those of its own tokens.
    asked = {"seed": 3, "max_tokens": 12, "temperature": 1.0, "logprobs": True}
    own = chosen.chat(**asked).json()["choices"][0]["logprobs"]["content"]
    all_choices = plain.chat(**asked, n=4).json()["choices"]
    assert own == all_choices[texts.index(max(texts, key=len))]["logprobs"]["content"]
    # With n the top n, the best first.
    two = chosen.chat(seed=3, n=2, max_tokens=12, temperature=1.0).json()
    ranked = sorted(texts, key=len, reverse=True)
    assert [c["message"]["content"] for c in two["choices"]] == ranked[:2]
    # A stream has the same text, and the scores in its last chunk.
    streamed = chosen.chat(
        seed=3, max_tokens=12, temperature=1.0, stream=True, accord={"scores": True}
    )
    chunks = [json.loads(p[6:]) for p in streamed.text.split("\n\n") if p.startswith("data: {")]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text == max(texts, key=len)
    assert chunks[-1]["accord"]["scores"] == [max(map(len, texts))]


def test_what_clients_send_beside(chosen: Served) -> None:
    # LangChain sends best_of: 1, which counts as unset.
    response = chosen.chat(max_tokens=4, best_of=1, temperature=1.0)
    assert response.status_code == 200
    assert response.json()["accord"]["best_of"] == 4
    for extra, param in (
        ({"accord": {"best_of": 17}}, "accord.best_of"),
        ({"accord": {"nothing": 1}}, "accord.nothing"),
        ({"best_of": 3}, "best_of"),
    ):
        error = chosen.chat(max_tokens=4, temperature=1.0, **extra)
        assert error.status_code == 400
        assert error.json()["error"]["param"] == param
    metrics = chosen.get("/metrics").text
    assert "accord_best_of_candidates_total" in metrics


def test_pruned_rows_leave_the_batch(toy_lm: LanguageModel) -> None:
    async def ask(prune: bool) -> tuple[list[Event], dict[str, float]]:
        local = LocalEngine(toy_lm, ["toy"])
        options = BestOfOptions(n=8, prune=(Checkpoint(4, 0.25),))
        engine = BestOfEngine(local, Scorer(REWARD), options)
        asked = EngineRequest(
            (Message("user", "the cat"),), SamplingSettings(), 64, 1, options={"prune": prune}
        )
        events = [event async for event in engine.stream(asked)]
        while engine.gauges()["rows_running"]:
            await asyncio.sleep(0.01)
        gauges = dict(engine.gauges())
        await engine.close()
        return events, gauges

    events, gauges = asyncio.run(ask(True))
    whole, _ = asyncio.run(ask(False))
    usage, all_of_them = events[-1], whole[-1]
    assert isinstance(usage, TokenUsage)
    assert isinstance(all_of_them, TokenUsage)
    assert usage.completion_tokens < all_of_them.completion_tokens
    assert gauges["generated_tokens_total"] == usage.completion_tokens
    assert gauges["cancelled_requests_total"] == 0
    assert gauges["rows_waiting"] == 0


def test_rewards_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("rewards:\n  - {kind: length, at_most: 5, name: short}\n")
    (source,) = read_rewards(str(tmp_path / "r.yaml"))
    assert isinstance(source, LengthSource)
    assert source.title == "short"
    (tmp_path / "run/model").mkdir(parents=True)
    (model,) = read_rewards(str(tmp_path / "run"))
    assert isinstance(model, RewardModelSource)
    assert model.model == str(tmp_path / "run/model")
    (hub,) = read_rewards("org/reward")
    assert isinstance(hub, RewardModelSource)
    assert hub.model == "org/reward"


def test_a_reward_that_reads_columns_is_refused_at_the_start() -> None:
    def check(rows: list[PromptResponse]) -> None:
        raise RewardError("no column `answer`")

    reward = CombinedReward((WeightedSource("answer", 1.0, longest, check=check),))  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="no column"):
        with_best_of(UpstreamEngine("http://x/v1", "m"), BestOf(read_options(2), lambda: reward))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--best-of", "4"], "--best-of needs something that chooses"),
        (["m", "--prune", "4:0.5"], "--prune needs"),
        (["m", "--max-best-of", "4"], "--max-best-of needs"),
        (["m", "--upstream-key-env", "K"], "--upstream-key-env is of --upstream"),
        (["m", "--upstream", "localhost:1"], "is no address"),
        (["m", "--upstream", "http://h/v1", "--max-rows", "8"], "--max-rows is of a model"),
        (["m", "--reward", "r", "--best-of", "8", "--max-best-of", "2"], "is below --best-of 8"),
        (["m", "--reward", "r", "--best-of", "8", "--wave", "2"], "--wave says"),
        ([], "Name the model"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert isinstance(result.exception, RequestError)
    assert message in str(result.exception)


def test_a_curve_that_is_none(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["serve", "m", "--reward", "r", "--best-of", "4", "--curve", str(tmp_path)]
    )
    assert isinstance(result.exception, DataError)


def test_more_candidates_than_rows_are_refused_before_the_model_is_loaded() -> None:
    options = command.ServeOptions(
        "m", max_rows=8, best_of=BestOf(read_options(16), lambda: REWARD)
    )
    with pytest.raises(RequestError, match="Raise --max-rows"):
        command.serve_model(options, log=print)


def test_the_gateway_s_options(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(
        "accord.serve.server.run_server", lambda engine, *_, log: started.append(engine)
    )
    logged: list[str] = []
    with fake_upstream() as server:
        best_of = BestOf(BestOfOptions(n=4, warning="It turns down."), lambda: REWARD)
        options = command.ServeOptions(None, upstream=server.url, best_of=best_of)
        command.serve_model(options, log=logged.append)  # type: ignore[arg-type]
    (engine,) = started
    assert isinstance(engine, BestOfEngine)
    assert engine.model_names == ("served",)
    assert logged == ["Warning: It turns down."]
    assert command.ServeOptions("m").max_rows == best_of_options.MAX_ROWS
    assert command.ServeOptions("m").max_waiting == best_of_options.MAX_WAITING


def test_a_gateway_before_this_server_gives_its_answers(start: Start) -> None:
    served = start()
    body = {"seed": 3, "n": 3, "max_tokens": 12, "temperature": 1.0}
    direct = served.chat("the cat", **body, logprobs=True, top_logprobs=2).json()
    prompt = (Message("user", "the cat"),)
    asked = EngineRequest(prompt, SamplingSettings(3), 12, 3, top_logprobs=2)

    async def ask() -> tuple[list[Event], bool | None]:
        engine = UpstreamEngine(served.url + "/v1", "toy")
        await engine.check_health()
        events = [event async for event in engine.stream(asked)]
        await engine.close()
        return events, engine.honours_n

    events, honours_n = asyncio.run(ask())
    assert honours_n is True
    texts, tokens = {0: "", 1: "", 2: ""}, 0
    for event in events:
        if isinstance(event, Delta):
            texts[event.index] += event.text
            tokens += len(event.tokens)
            assert all(len(token.top) == 2 for token in event.tokens)
    assert list(texts.values()) == [c["message"]["content"] for c in direct["choices"]]
    assert tokens == sum(len(c["logprobs"]["content"]) for c in direct["choices"])
    usage = events[-1]
    assert isinstance(usage, TokenUsage)
    assert usage.completion_tokens == direct["usage"]["completion_tokens"]


def test_the_room_of_what_is_dropped_is_free_at_once(toy_lm: LanguageModel) -> None:
    async def ask() -> list[float]:
        local = LocalEngine(toy_lm, ["toy"], max_rows=4, max_waiting=0)
        drops = Drops()
        asked = EngineRequest(
            (Message("user", "the cat"),), SamplingSettings(4), 100, 1, drops=drops
        )
        events = local.stream(asked)
        await anext(events)
        before = sum(running.rows for running in local._running.values())
        drops.add([1, 2, 3, 3])
        after = sum(running.rows for running in local._running.values())
        await events.aclose()
        await local.close()
        return [before, after]

    assert asyncio.run(ask()) == [4, 1]


def test_the_list_of_models_shows_the_curves_warning(start: Start, toy_lm: LanguageModel) -> None:
    local = LocalEngine(toy_lm, ["toy"], max_rows=16)
    warned = start(
        BestOfEngine(local, Scorer(REWARD), BestOfOptions(n=4, warning="It turns down."))
    )
    (model,) = warned.get("/v1/models").json()["data"]
    assert model["accord"] == {"warning": "It turns down."}
    (model,) = start().get("/v1/models").json()["data"][:1]
    assert "accord" not in model


def test_a_score_of_minus_zero_is_zero(start: Start, toy_lm: LanguageModel) -> None:
    local = LocalEngine(toy_lm, ["toy"], max_rows=16)
    nothing = CombinedReward((WeightedSource("none", 1.0, lambda rows: [-0.0] * len(rows)),))
    served = start(BestOfEngine(local, Scorer(nothing), BestOfOptions(n=2)))
    response = served.chat(seed=3, max_tokens=3, temperature=1.0, accord={"scores": True})
    assert response.headers["X-Accord-Score"] == "0"
    assert "-0" not in str(response.json()["accord"])
