"""Users' functions as reward sources: what they are called with, and how they fail."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from accord.errors import RewardError
from tests.compare.reward_sources import PROMPTS, TEXTS, reward_from

MODULE = """
from __future__ import annotations

from dataclasses import dataclass

@dataclass
class Scored:
    value: float

def plain(prompts, responses):
    return [Scored(len(r)).value for r in responses]

def with_completions(completions, prompts, topic, **kwargs):
    assert isinstance(prompts[0], str) and prompts[1] == [{"role": "user", "content": "two"}]
    assert kwargs["responses"] == ["a b c d", "yes"], kwargs
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    assert completions[1][0]["role"] == "assistant"
    return [len(s) + (t or 0) for s, t in zip(texts, topic)]

def defaults(responses, topic=None, scale=2.0):
    return [scale * (t or 0) for t in topic]

def needs(responses, topic):
    return [float(t is None) for t in topic]

def blind(prompts):
    return [0.0 for p in prompts]

def fails(responses):
    raise KeyError("no\\nsuch")

def nothing(responses):
    pass

async def later(responses):
    return 0.0

async def generates(responses):
    yield 0.0

def tensor(responses):
    import torch
    return torch.tensor([0.5, 1.5])

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "rewards_of_a_test", raising=False)
    path = tmp_path / "rewards_of_a_test.py"
    path.write_text(MODULE)
    return path


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("plain", [7.0, 3.0]),
        ("with_completions", [8.0, 3.0]),
        ("defaults", [2.0, 0.0]),
        ("needs", [0.0, 1.0]),
        ("tensor", [0.5, 1.5]),
    ],
)
def test_a_users_function(module: Path, name: str, scores: list[float]) -> None:
    metas: list[dict[str, Any]] = [{"topic": 1}, {}]
    for name_or_path in (str(module), "rewards_of_a_test"):
        reward = reward_from({"kind": "python", "function": f"{name_or_path}:{name}"})
        assert reward.scores(PROMPTS, TEXTS, metas=metas).by_source == {name: scores}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "importing no_such_module failed with ModuleNotFoundError"),
        ("no/such.py:f", "FileNotFoundError: no file 'no/such.py'"),
        ("rewards_of_a_test.py:plane", "has no function 'plane'. Its functions are plain, with_c"),
        ("rewards_of_a_test.py:number", "has no function 'number'"),
        ("rewards_of_a_test.py:blind", "has no parameter `responses` or `completions`"),
        ("broken.py:f", "importing broken.py failed with SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_used(module: Path, function: str, message: str) -> None:
    Path("broken.py").write_text("def f(:\n")
    with pytest.raises(RewardError, match=message) as caught:
        reward_from({"kind": "python", "function": function})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fails", "nothing", "later", "generates"])
def test_a_function_that_fails(module: Path, name: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{module}:{name}"})
    with pytest.raises(RewardError, match=f":{name} failed on 2 responses, the first 'a b c d': "):
        reward(PROMPTS, TEXTS)


def test_only_a_module_that_is_named_is_imported(module: Path) -> None:
    module.write_text("raise SystemError('it ran')\n")
    reward_from({"kind": "contains", "text": "rewards_of_a_test.py:plain"})
    with pytest.raises(RewardError, match="SystemError: it ran"):
        reward_from({"kind": "python", "function": "rewards_of_a_test.py:plain"})


KINDS = """
import asyncio, functools, itertools, math
from collections import OrderedDict
import numpy as np, torch

def f(completions, kind, **kwargs):
    return [1.0 if k == "math" else None for k in kind]

def slip(completions, soluton): pass
def singular(prompt, completions): pass
def state(completions, trainer_state): pass
def ids(completions, completion_ids): return [float(sum(i)) for i in completion_ids]
def ids_if_known(completions, completion_ids=None): return [float(completion_ids is None)] * 2
def logs(completions, log_metric=None): return [float(log_metric is None)] * 2
def changes(completions, words): words[0].append("more"); return [len(w) for w in words]

async def asks(completions, **kwargs):
    await asyncio.sleep(0.01)
    return [1.0, 2.0]

class Client:
    async def __call__(self, completions):
        return torch.tensor([1.0, 2.0])

client = Client()
part = functools.partial(asks, extra=1)
def gives_awaitable(completions): return asks(completions)

RETURNED = {
    "tensor": torch.tensor([1.0, 2.0]), "column": torch.tensor([[1.0], [2.0]]),
    "bfloat16": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "grad": torch.tensor([1.0, 2.0], requires_grad=True), "numpy": np.array([1.0, 2.0]),
    "integers": np.array([1, 2]), "bools": [True, 2], "tuple": (1, 2), "none": [1, None],
    "generator": None, "mapping": {1: 2.0, 2: 3.0}, "ordered": OrderedDict([(1.0, 1), (2.0, 2)]),
    "set": {1.0, 2.0}, "text": "12", "texts": ["1", "2"], "bytes": b"12", "number": 1.0,
    "nothing": None, "nan": [math.nan, 1.0], "inf": [1.0, -math.inf], "short": [1.0],
    "long": [1.0] * 3, "huge": [1e39, 1.0], "complex": [1j, 1.0], "nested": [[1.0, 2.0], [1.0]],
    "matrix": torch.zeros(2, 2), "scalar": torch.tensor(1.0), "endless": None,
}
def __getattr__(name):
    if name not in RETURNED:
        raise AttributeError(name)
    def give(completions):
        if name == "generator": return (float(i + 1) for i in range(2))
        if name == "endless": return itertools.count()
        return RETURNED[name]
    return give
"""


@pytest.fixture
def kinds(tmp_path: Path) -> str:
    (tmp_path / "kinds.py").write_text(KINDS)
    return str(tmp_path / "kinds.py")


@pytest.mark.parametrize(
    "name",
    "tensor column bfloat16 grad numpy integers bools tuple generator asks client part "
    "gives_awaitable".split(),
)
def test_what_a_function_may_return(kinds: str, name: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{kinds}:{name}"})
    assert reward(PROMPTS, TEXTS) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mapping", "returned a dict"),
        ("ordered", "returned a OrderedDict"),
        ("set", "returned a set"),
        ("text", "returned a str"),
        ("bytes", "returned a bytes"),
        ("texts", "gave '1', which is no finite number"),
        ("number", "'float' object is not iterable"),
        ("nothing", "'NoneType' object is not iterable"),
        ("nan", "gave nan.*None where it does not apply"),
        ("inf", "gave -inf"),
        ("huge", r"gave 1e\+39"),
        ("complex", "gave 1j"),
        ("nested", r"gave \[1.0, 2.0\]"),
        ("matrix", "gave tensor"),
        ("scalar", "0-d tensor"),
        ("short", "gave 1 scores for 2 responses"),
        ("long", "gave 3 scores for 2"),
        ("endless", "gave 3 scores for 2"),
    ],
)
def test_what_it_may_not_return(kinds: str, name: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        reward_from({"kind": "python", "function": f"{kinds}:{name}"})(PROMPTS, TEXTS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slip", r"parameter `soluton`, and no row .* mean `solution`\? The rows' other columns: "),
        ("singular", r"`prompt`, and no row .* mean `prompts`"),
        ("state", "`trainer_state`, which TRL gives and accord does not"),
    ],
)
def test_a_parameter_that_no_row_has(kinds: str, name: str, message: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{kinds}:{name}"})
    with pytest.raises(RewardError, match=message):
        reward.check_rows(PROMPTS, [{"solution": "4"}, {"kind": "x"}])  # before the first response
    with pytest.raises(RewardError, match=message):
        reward.scores(PROMPTS, TEXTS, metas=[{"solution": "4"}, {}])


def test_a_row_without_the_answer_is_named_before_the_first_response() -> None:
    reward = reward_from({"kind": "answer"})
    reward.check_rows(PROMPTS, [{"answer": "4"}, {"answer": 5}])
    with pytest.raises(RewardError, match=r"column `answer`, and the row of the prompt 'two'"):
        reward.check_rows(PROMPTS, [{"answer": "4"}, {"anwser": 5}])


def test_a_column_that_other_rows_have(kinds: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{kinds}:f"})
    reward.check_rows(PROMPTS, [{"kind": "math"}, {}])
    scores = reward.scores(PROMPTS, TEXTS, metas=[{}, {}])  # rows that all lack it
    assert all(math.isnan(score) for score in scores.total)


def test_token_ids_and_what_has_a_default(kinds: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{kinds}:ids"})
    assert reward.scores(PROMPTS, TEXTS, tokens=[(1, 2), (3,)]).total == [3.0, 3.0]
    with pytest.raises(RewardError, match="`completion_ids`, and these responses are known as tex"):
        reward(PROMPTS, TEXTS)
    optional = reward_from({"kind": "python", "function": f"{kinds}:ids_if_known"})
    assert optional(PROMPTS, TEXTS) == [1.0, 1.0]
    assert optional.scores(PROMPTS, TEXTS, tokens=[(1,), (2,)]).total == [0.0, 0.0]
    assert reward_from({"kind": "python", "function": f"{kinds}:logs"})(PROMPTS, TEXTS) == [1, 1]


def test_a_function_that_changes_its_arguments_changes_no_row(kinds: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{kinds}:changes"})
    metas: list[dict[str, Any]] = [{"words": ["a"]}, {"words": []}]
    for _ in range(2):
        assert reward.scores(PROMPTS, TEXTS, metas=metas).total == [2.0, 0.0]
    assert metas == [{"words": ["a"]}, {"words": []}]


WAITING = """
import threading, asyncio
arrived = {}

def make(name, other):
    async def wait(responses):
        arrived.setdefault(name, asyncio.Event()).set()
        await asyncio.wait_for(arrived.setdefault(other, asyncio.Event()).wait(), 20)
        return [1.0] * len(responses)
    return wait

first, second = make("first", "second"), make("second", "first")
"""


def test_coroutines_wait_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "waiting_rewards.py").write_text(WAITING)  # each ends when the other has begun
    names = [f"waiting_rewards:{name}" for name in ("first", "second")]
    sources = [{"kind": "python", "function": name} for name in names]
    assert reward_from(*sources)(PROMPTS, TEXTS) == [2.0, 2.0]
