"""A server whose models judge by rules: the first, the longer, at random, as people do."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from accord.data.voted_pairs import VotedPair
from accord.measure.agreement.judged import code_people
from accord.pipeline.judges.check import SIDES
from accord.records import prompt_text
from tests.fake_openai import Reply, completion, judged_texts

MODELS = ("first", "longer", "random", "majority")
Responses = tuple[str, str]


class RuleJudges:
    """Answers a judge's request by the rule that its model is named after."""

    def __init__(self, pairs: Sequence[VotedPair], seed: int = 0) -> None:
        self.seed, self.asked = seed, Counter[tuple[str, ...]]()
        labels = code_people([[SIDES[vote.side] for vote in pair.votes] for pair in pairs])
        self.majority: dict[tuple[str, Responses], str] = {}
        for pair, label in zip(pairs, labels.tolist(), strict=True):
            for order, names in ((1, ("A", "B", "tie", "tie")), (-1, ("B", "A", "tie", "tie"))):
                responses = (pair.response_a, pair.response_b)[::order]
                self.majority[prompt_text(pair.prompt), (responses[0], responses[1])] = names[label]

    def __call__(self, body: Any) -> Reply:
        texts = judged_texts(body)
        a, b = texts["response-A"], texts["response-B"]
        verdict = self.decide(body["model"], texts["prompt"], a, b)
        return 200, completion(json.dumps({"reason": "by its rule", "verdict": verdict}))

    def decide(self, model: str, prompt: str, a: str, b: str) -> str:
        if model == "first":
            return "A"
        if model == "longer":
            return "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"
        if model == "random":
            # By how often it was asked this, and not by the order in which requests arrive.
            question = (prompt, a, b)
            self.asked[question] += 1
            return random.Random(f"{self.seed} {self.asked[question]} {question}").choice("AB")
        return self.majority[prompt, (a, b)]
