"""A judge's server in every mood, at random by a seed: it knows what each of its answers means.

A *draft* is a verdict that the server writes and does not give: it is never the verdict meant.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fake_openai import Reply, judged_texts, request_text

Verdict = str | None
"""A, B or tie; None for an answer that gives no verdict."""

EXAMPLE = '{"reason": "…", "verdict": "A"}'  # as a judge's request shows it


@dataclass(frozen=True)
class Answer:
    """A message of a completion and the verdict that it gives.

    `sure` is False where the message gives its verdict in prose, which need not be read.
    """

    content: Any
    meant: Verdict
    finish: str | None = "stop"
    sure: bool = True
    extra: dict[str, Any] = field(default_factory=dict)  # further keys of the message

    def reply(self) -> Reply:
        message = {"role": "assistant", "content": self.content, **self.extra}
        usage = {"prompt_tokens": 20, "completion_tokens": 3}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return 200, {"object": "chat.completion", "choices": [choice], "usage": usage}


def plain(meant: str, random: random.Random) -> str:
    """A verdict in one of the forms that a request asks for."""
    reason = random.choice(
        ["so", "It says more.", 'It says "no".', "A, not B.", "länger\nund wahr"]
    )
    whole = json.dumps({"reason": reason, "verdict": meant}, ensure_ascii=random.random() < 0.5)
    return random.choice(
        [
            whole,
            json.dumps({"reason": reason, "verdict": meant}, indent=2),
            f"```json\n{whole}\n```",
            f"{reason.split()[0]} and so on.\n\nVerdict: {meant}",
            f"**Verdict:** {meant}",
        ]
    )


def thought(draft: str, random: random.Random) -> str:
    """Thoughts with a draft, between the tags of some model."""
    opening, closing = random.choice(
        [
            ("<think>\n", "\n</think>\n\n"),
            ("", "\n</think>\n\n"),  # the template opened them
            ("[THINK]", "[/THINK]"),
            ("<seed:think>", "</seed:think>"),
            ("◁think▷", "◁/think▷"),
        ]
    )
    drafts = [f"Verdict: {draft}", json.dumps({"verdict": draft}), f"**{draft}**", EXAMPLE]
    return f"{opening}{random.choice(drafts)}\nNo, wait.{closing}"


def parts(text: str, random: random.Random, draft: str) -> list[dict[str, Any]]:
    """A text as a list of parts, cut anywhere, behind a part of thoughts."""
    cuts = sorted(random.sample(range(len(text) + 1), k=min(3, len(text))))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    thinking = {"type": "thinking", "thinking": f"Verdict: {draft}"}
    return [thinking, *({"type": "text", "text": piece} for piece in pieces)]


def harmony(meant: str, draft: str, random: random.Random) -> Answer:
    channels = f"<|channel|>analysis<|message|>Verdict: {draft}<|end|><|start|>assistant"
    return Answer(f"{channels}<|channel|>final<|message|>{plain(meant, random)}", meant)


def cut_json(meant: str, draft: str, random: random.Random) -> Answer:
    whole = json.dumps(
        {"reason": "It says more.", "verdict": meant}, indent=random.choice([None, 1])
    )
    return Answer(whole[: random.randrange(1, len(whole) - 1)], None)


def cut_by_a_limit(meant: str, draft: str, random: random.Random) -> Answer:
    return Answer(plain(draft, random), None, random.choice(["length", "MAX_TOKENS"]))


def prose(meant: str, draft: str, random: random.Random) -> Answer:
    text = random.choice(
        [
            f"Response {meant} is better than {draft}, which says nothing.",
            f"I would go with {meant}. {draft} is worse",
            f"My verdict is that {meant} wins over {draft}.",
            f"{draft} is shorter, but I prefer {meant} on the whole.",
        ]
    )
    return Answer(text, meant, sure=False)


def echo(meant: str, draft: str, random: random.Random) -> Answer:
    """The question's own example, with or without what stands around it."""
    asked = f'Answer with a JSON object such as {EXAMPLE}: the reason, and the verdict "A", "B"'
    end = "If you can't write JSON, end with a line such as\nVerdict: A"
    text = random.choice([EXAMPLE, asked, f"{asked}. {end}", end, f"```json\n{EXAMPLE}\n```"])
    return Answer(text, None)


def endless(meant: str, draft: str, random: random.Random) -> Answer:
    """A model that does not stop: all the options again and again, its turn's end ignored."""
    finish = random.choice(["length", "stop", None])
    rounds = "Verdict: A\nVerdict: B\nVerdict: tie\n" * random.randrange(2, 400)
    return Answer(rounds, None, finish)


def next_turn(meant: str, draft: str, random: random.Random) -> Answer:
    end = random.choice(["<|im_end|>\n<|im_start|>user\n", "</s>", "<|eot_id|>", "\n[INST] "])
    return Answer(f"{plain(meant, random)}{end}And now?\nVerdict: {draft}", meant)


def two_verdicts(meant: str, draft: str, random: random.Random) -> Answer:
    pairs = [f"Verdict: {meant}\nVerdict: {draft}", f"Verdict: {meant} or {draft}"]
    pairs += [f'{{"verdict": "{meant}"}}\n{{"verdict": "{draft}"}}', f"{meant}/{draft}"]
    pairs += [f'{{"verdict": "{meant}", "verdict": "{draft}"}}', f"{meant}\n{draft}"]
    return Answer(random.choice(pairs), None)


def quoted(meant: str, draft: str, random: random.Random) -> Answer:
    """What a response says of itself, quoted before the verdict."""
    quotes = [
        f"> Verdict: {draft}\nSo it says.\n\n",
        f'It says {{"verdict": "{draft}"}}, a trick.\n',
    ]
    quotes += [f"<response-A-0123456789ab>\nVerdict: {draft}\n</response-A-0123456789ab>\n"]
    return Answer(random.choice(quotes) + plain(meant, random), meant)


def thoughts_apart(meant: str, draft: str, random: random.Random) -> Answer:
    name = random.choice(["reasoning_content", "reasoning", "thinking"])
    extra = {name: f"Verdict: {draft}"}
    if random.random() < 0.3:  # all its tokens went into them
        return Answer(random.choice(["", None]), None, "length", extra=extra)
    return Answer(plain(meant, random), meant, extra=extra)


def thoughts_without_end(meant: str, draft: str, random: random.Random) -> Answer:
    opening = random.choice(["<think>", "[THINK]", "<|channel|>analysis<|message|>"])
    return Answer(f"{opening}\nVerdict: {draft}\nHmm, or", None)


def withheld(meant: str, draft: str, random: random.Random) -> Answer:
    if random.random() < 0.5:
        return Answer(f"Verdict: {draft}", None, "content_filter")
    return Answer(None, None, extra={"refusal": f"I won't say Verdict: {draft}"})


ANSWERS: list[Callable[[str, str, random.Random], Answer]] = [
    lambda meant, draft, random: Answer(plain(meant, random), meant),
    lambda meant, draft, random: Answer(thought(draft, random) + plain(meant, random), meant),
    lambda meant, draft, random: Answer(parts(plain(meant, random), random, draft), meant),
    lambda meant, draft, random: Answer(
        parts(thought(draft, random) + plain(meant, random), random, draft), meant
    ),
    harmony,
    cut_json,
    cut_by_a_limit,
    prose,
    echo,
    lambda meant, draft, random: Answer(thought(draft, random) + EXAMPLE, None),
    endless,
    next_turn,
    two_verdicts,
    quoted,
    thoughts_apart,
    thoughts_without_end,
    withheld,
]

FAULTS: list[Reply] = [
    (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
    (500, "Verdict: A"),
    (503, {"error": {"message": "Verdict: B"}}),
    (200, {"error": {"message": "Provider returned error", "code": 502}}),
    (200, '{"choices": [{"message": {"content": "Verdict: A"'),
    (200, "Verdict: A"),
    (200, {"choices": []}),
    (200, {"choices": [{"message": {"content": "Verdict: A"}, "finish_reason": "abort"}]}),
    (200, {"choices": [{"message": {"content": "Verdict: A"}, "error": {"code": 502}}]}),
    (0, ""),
]
"""What is no answer: sent again, it may bring one."""


def random_answer(random: random.Random) -> Answer:
    meant, draft = random.sample(["A", "B", "tie"], k=2)
    return random.choice(ANSWERS)(meant, draft, random)


class MoodyServer:
    """Answers every request by `random_answer` or a fault. `given` are the last answers by what was
    judged, in the order shown; two faults at most precede an answer."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.given: dict[tuple[str, str], Answer] = {}
        self.faults: Counter[str] = Counter()
        self.times: Counter[str] = Counter()  # answers, by the request's whole text
        self._lock = threading.Lock()

    def __call__(self, body: Any) -> Reply:
        texts, question = judged_texts(body), request_text(body)
        with self._lock:
            if self.faults[question] < 2 and self.random.random() < 0.3:
                self.faults[question] += 1
                return self.random.choice(FAULTS)
            answer = random_answer(self.random)
            self.given[texts["response-A"], texts["response-B"]] = answer
            self.times[question] += 1
            return answer.reply()
