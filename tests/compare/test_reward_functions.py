"""Users' functions as reward sources: what they are called with, and how they fail."""

from __future__ import annotations

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

def needs(responses, absent):
    return [float(a is None) for a in absent]

def blind(prompts):
    return [0.0 for p in prompts]

def fails(responses):
    raise KeyError("no\\nsuch")

def nothing(responses):
    pass

async def later(responses):
    return [0.0]

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
        ("needs", [1.0, 1.0]),
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


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("name", ["fails", "nothing", "later"])
def test_a_function_that_fails(module: Path, name: str) -> None:
    reward = reward_from({"kind": "python", "function": f"{module}:{name}"})
    with pytest.raises(RewardError, match=f":{name} failed on 2 responses, the first 'a b c d': "):
        reward(PROMPTS, TEXTS)


def test_only_a_module_that_is_named_is_imported(module: Path) -> None:
    module.write_text("raise SystemError('it ran')\n")
    reward_from({"kind": "contains", "text": "rewards_of_a_test.py:plain"})
    with pytest.raises(RewardError, match="SystemError: it ran"):
        reward_from({"kind": "python", "function": "rewards_of_a_test.py:plain"})
