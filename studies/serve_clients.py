"""The openai client, litellm and LangChain's client against `accord serve`, streaming and not.

    python studies/serve_clients.py --model runs/dpo/model --clients-python PYTHON

PYTHON is that of an environment with openai, litellm and langchain-openai. Each client's greedy
answers, whole and streamed, must be those of `accord sample`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from serving_process import ServingProcess

import accord

PROMPTS = ("Name a fish.", "Write one word about the sea.", "What is 2 + 3?")
NEW_TOKENS = 24

CALLS = {
    "openai": """
        from openai import OpenAI
        client = OpenAI(base_url=url + "/v1", api_key="key")
        shared = dict(model=model, temperature=0, max_tokens=tokens)
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}]
            whole = client.chat.completions.create(messages=messages, n=1, **shared)
            chunks = client.chat.completions.create(
                messages=messages, stream=True, stream_options={"include_usage": True}, **shared
            )
            streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            answers.append([whole.choices[0].message.content, streamed])
    """,
    "litellm": """
        import litellm
        shared = dict(
            model="openai/" + model, api_base=url + "/v1", api_key="key", temperature=0,
            max_tokens=tokens,
        )
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}]
            whole = litellm.completion(messages=messages, **shared)
            chunks = litellm.completion(messages=messages, stream=True, **shared)
            streamed = "".join(c.choices[0].delta.content or "" for c in chunks)
            answers.append([whole.choices[0].message.content, streamed])
    """,
    "langchain-openai": """
        from langchain_openai import ChatOpenAI
        client = ChatOpenAI(
            model=model, base_url=url + "/v1", api_key="key", temperature=0, max_tokens=tokens
        )
        for prompt in prompts:
            streamed = "".join(str(chunk.content) for chunk in client.stream(prompt))
            answers.append([str(client.invoke(prompt).content), streamed])
    """,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients-python", type=Path, default=Path(sys.executable))
    options = parser.parse_args()
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    sampled = accord.sample(
        options.model, conversations, max_new_tokens=NEW_TOKENS, temperature=0, device="cpu"
    )
    expected = [answer.responses[0] for answer in sampled]
    failures = 0
    with ServingProcess(options.model) as server:
        for name, code in CALLS.items():
            answers = ask(options.clients_python, code, server.url, server.model_name)
            equal = sum([own, own] == given for own, given in zip(expected, answers, strict=True))
            failures += equal < len(PROMPTS)
            print(f"{name}: {equal} of {len(PROMPTS)} answers equal, whole and streamed")
    sys.exit(1 if failures else 0)


def ask(python: Path, code: str, url: str, model: str) -> Any:
    """The answers that a client gives, in a process of its own environment."""
    values = {"url": url, "model": model, "tokens": NEW_TOKENS, "prompts": PROMPTS}
    script = (
        f"import json, sys\nvalues = json.loads(sys.argv[1])\nglobals().update(values)\n"
        f"answers = []\n{textwrap.dedent(code)}\nprint('answers:' + json.dumps(answers))"
    )
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"}
    done = subprocess.run(
        [str(python), "-c", script, json.dumps(values)],
        capture_output=True,
        text=True,
        env={**os.environ, **offline, "PYTHONPATH": "", "NO_PROXY": "127.0.0.1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.rpartition("answers:")[2])


if __name__ == "__main__":
    main()
